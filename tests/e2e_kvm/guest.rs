//! What runs inside the guest, and the memory that it finds: its code, its page tables, and pages of known content.
//!
//! The code is made of instructions that have the same encoding in 32-bit and in 64-bit mode, so that the same bytes run in
//! either: 32-bit operands, none of the registers that only 64-bit mode has, and no stack.
#![expect(unsafe_code, reason = "the bytes of an assembled function")]

use std::arch::global_asm;

use super::support::area::PAGE;

/// Pages of the guest's own. The first ones hold what the guest needs to run.
pub(crate) const FIRST: usize = 16;
/// Page tables: three levels, of which the lowest maps huge pages to themselves.
const TABLES: usize = 1;
const CODE: usize = 4;
/// A byte for each page of memory.
const STATES: usize = 5;
/// A page for each vCPU, to keep its numbers in.
const OWN: usize = 9;
const MOST_VCPUS: usize = 4;
const MOST_PAGES: usize = (OWN - STATES) * PAGE;

/// The port through which the guest asks for the words of a task, and tells the words of its report.
pub(crate) const PORT: u16 = 0x10;
/// Words of a report: wrong words, the first page that has one, words looked at.
pub(crate) const REPORT: usize = 3;

/// States of a page. It has been written to by the guest: it has its own content with other numbers.
pub(crate) const MARKED: u8 = 1;
/// The VMM is about to drop the page: words that are zero are right as well.
pub(crate) const RELEASED: u8 = 2;
/// The page has been dropped: only zeros are right.
pub(crate) const DROPPED: u8 = 4;

const BY_PAGE: u32 = 0x9e37_79b1;
const BY_OFFSET: u32 = 0x85eb_ca6b;
const MIX: u32 = 0xc2b2_ae35;

/// What a vCPU is to do with pages `first`, `first + step`, …
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// Write to the pages, instead of looking whether they are right.
    pub(crate) mark: bool,
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
    /// Bytes from one word to the next that is looked at.
    pub(crate) stride: usize,
}

impl Task {
    pub(crate) fn words(&self) -> [u32; 5] {
        let numbers = [
            usize::from(self.mark),
            self.first,
            self.step,
            self.count,
            self.stride,
        ];
        numbers.map(|number| u32::try_from(number).expect("small"))
    }
}

// rbp: the states. rsp: the vCPU's own numbers, where +0 is the task's kind, +4 the page, +8 the step, +12 pages left, +16
// the stride, +20 wrong words, +24 the first page with one, +28 words looked at, +32 and +36 masks, of the word and of the
// offset. While a page is gone through: edi the page, esi its address, ecx the offset, edx what the page's words begin with.
global_asm!(
    r#"
    .pushsection .rodata.e2e_kvm_guest, "a", @progbits
    .globl e2e_kvm_guest_begin
    .globl e2e_kvm_guest_end
e2e_kvm_guest_begin:
    in eax, {PORT}
    mov dword ptr [rsp + 0], eax
    in eax, {PORT}
    mov dword ptr [rsp + 4], eax
    in eax, {PORT}
    mov dword ptr [rsp + 8], eax
    in eax, {PORT}
    mov dword ptr [rsp + 12], eax
    in eax, {PORT}
    mov dword ptr [rsp + 16], eax
    xor eax, eax
    mov dword ptr [rsp + 20], eax
    mov dword ptr [rsp + 24], eax
    mov dword ptr [rsp + 28], eax
.Lguest_page:
    cmp dword ptr [rsp + 12], 0
    je .Lguest_report
    mov edi, dword ptr [rsp + 4]
    movzx eax, byte ptr [rbp + rdi]
    mov ebx, -1
    mov ecx, -1
    mov edx, edi
    and edx, 7
    cmp edx, 3
    jne .Lguest_not_zero
    xor ebx, ebx
.Lguest_not_zero:
    cmp edx, 5
    jne .Lguest_not_same
    xor ecx, ecx
.Lguest_not_same:
    mov edx, edi
    cmp dword ptr [rsp + 0], 0
    jne .Lguest_marked
    test eax, {DROPPED}
    jz .Lguest_not_dropped
    xor ebx, ebx
    jmp .Lguest_masks
.Lguest_not_dropped:
    test eax, {MARKED}
    jz .Lguest_masks
.Lguest_marked:
    not edx
    mov ebx, -1
    mov ecx, -1
.Lguest_masks:
    imul edx, edx, {BY_PAGE}
    mov dword ptr [rsp + 32], ebx
    mov dword ptr [rsp + 36], ecx
    mov esi, edi
    shl esi, 12
    xor ecx, ecx
.Lguest_word:
    mov eax, ecx
    and eax, dword ptr [rsp + 36]
    imul eax, eax, {BY_OFFSET}
    add eax, edx
    imul eax, eax, {MIX}
    mov ebx, eax
    shr ebx, 15
    xor eax, ebx
    and eax, dword ptr [rsp + 32]
    cmp dword ptr [rsp + 0], 0
    je .Lguest_look
    mov dword ptr [rsi + rcx], eax
    jmp .Lguest_good
.Lguest_look:
    mov ebx, dword ptr [rsi + rcx]
    cmp eax, ebx
    je .Lguest_good
    test ebx, ebx
    jne .Lguest_bad
    test byte ptr [rbp + rdi], {GOING}
    jnz .Lguest_good
.Lguest_bad:
    cmp dword ptr [rsp + 20], 0
    jne .Lguest_not_first
    mov dword ptr [rsp + 24], edi
.Lguest_not_first:
    add dword ptr [rsp + 20], 1
.Lguest_good:
    add dword ptr [rsp + 28], 1
    add ecx, dword ptr [rsp + 16]
    cmp ecx, {PAGE}
    jb .Lguest_word
    cmp dword ptr [rsp + 0], 0
    je .Lguest_next
    mov byte ptr [rbp + rdi], {MARKED}
.Lguest_next:
    mov eax, dword ptr [rsp + 8]
    add dword ptr [rsp + 4], eax
    sub dword ptr [rsp + 12], 1
    jmp .Lguest_page
.Lguest_report:
    mov eax, dword ptr [rsp + 20]
    out {PORT}, eax
    mov eax, dword ptr [rsp + 24]
    out {PORT}, eax
    mov eax, dword ptr [rsp + 28]
    out {PORT}, eax
    jmp e2e_kvm_guest_begin
e2e_kvm_guest_end:
    .popsection
    "#,
    PORT = const PORT,
    DROPPED = const DROPPED,
    MARKED = const MARKED,
    GOING = const RELEASED | DROPPED,
    PAGE = const PAGE,
    BY_PAGE = const BY_PAGE.cast_signed(),
    BY_OFFSET = const BY_OFFSET.cast_signed(),
    MIX = const MIX.cast_signed(),
);

unsafe extern "C" {
    static e2e_kvm_guest_begin: u8;
    static e2e_kvm_guest_end: u8;
}

fn code() -> &'static [u8] {
    let (begin, end) = (&raw const e2e_kvm_guest_begin, &raw const e2e_kvm_guest_end);
    // SAFETY: both symbols lie in the one section above, the end behind the begin, with constant bytes between them.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

/// A word of a page, in the memory file.
fn word(page: usize, offset: usize) -> u32 {
    let number = |value: usize| u32::try_from(value).expect("small");
    // What a memory file has as well: pages of zeros, and pages of one word.
    let offset = match page % 8 {
        3 => return 0,
        5 => 0,
        _ => number(offset),
    };
    let mixed = number(page)
        .wrapping_mul(BY_PAGE)
        .wrapping_add(offset.wrapping_mul(BY_OFFSET))
        .wrapping_mul(MIX);
    mixed ^ (mixed >> 15)
}

/// The memory file: all that the guest is made of.
pub(crate) fn image(pages: usize) -> Vec<u8> {
    assert!(pages <= MOST_PAGES, "no room for the states");
    let mut image = vec![0; pages * PAGE];
    let (words, _) = image.as_chunks_mut::<4>();
    for (index, place) in words.iter_mut().enumerate().skip(FIRST * PAGE / 4) {
        *place = word(index * 4 / PAGE, index * 4 % PAGE).to_le_bytes();
    }
    let table = |number: usize| ((TABLES + number) * PAGE) as u64;
    let mut entry = |number: usize, index: usize, value: u64| {
        let place = (TABLES + number) * PAGE + index * 8;
        image[place..place + 8].copy_from_slice(&value.to_le_bytes());
    };
    // Present, writable, for user mode. The bits for accessed and dirty are not set: the processor, or KVM, does that.
    const RIGHTS: u64 = 0b111;
    const HUGE: u64 = 1 << 7;
    entry(0, 0, table(1) | RIGHTS);
    entry(1, 0, table(2) | RIGHTS);
    for index in 0..pages.div_ceil(512) {
        entry(2, index, (index as u64) << 21 | RIGHTS | HUGE);
    }
    image[CODE * PAGE..][..code().len()].copy_from_slice(code());
    image
}

/// Guest addresses that a vCPU begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) tables: u64,
    pub(crate) code: u64,
    pub(crate) states: u64,
    pub(crate) own: u64,
}

impl Start {
    pub(crate) fn of(vcpu: usize) -> Self {
        assert!(vcpu < MOST_VCPUS);
        Self {
            tables: (TABLES * PAGE) as u64,
            code: (CODE * PAGE) as u64,
            states: Self::STATES_AT as u64,
            own: ((OWN + vcpu) * PAGE) as u64,
        }
    }

    /// Where the state of page 0 is.
    pub(crate) const STATES_AT: usize = STATES * PAGE;
}

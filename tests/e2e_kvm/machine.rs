//! A virtual machine that has nothing but memory and vCPUs.
#![expect(unsafe_code, reason = "KVM is told of memory by its address")]

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::guest::{PORT, REPORT, Start, Task};
use super::support::area::{Area, PAGE};

/// How the guest's code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// 64-bit, ring 3, with page tables.
    User,
    /// 32-bit, ring 0, without paging. Where KVM emulates that, every access is one that the host's kernel makes.
    Flat,
}

impl Mode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Flat => "flat",
        }
    }

    pub(crate) fn from_word(word: &str) -> Self {
        [Self::User, Self::Flat]
            .into_iter()
            .find(|mode| mode.word() == word)
            .expect("a mode")
    }

    /// Bytes from one word that is looked at to the next. Emulation takes a microsecond for an instruction.
    pub(crate) fn stride(self) -> usize {
        match self {
            Self::User => 4,
            Self::Flat => 512,
        }
    }
}

/// What a vCPU has found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    pub(crate) wrong: u32,
    pub(crate) first_wrong: u32,
    pub(crate) looked_at: u32,
}

pub(crate) struct Machine {
    pub(crate) vcpus: Vec<Vcpu>,
    _vm: VmFd,
}

pub(crate) struct Vcpu(VcpuFd);

impl Machine {
    /// No memory is touched by this: not even the first instruction is there yet.
    pub(crate) fn new(memory: &Area, mode: Mode, vcpus: usize) -> Self {
        let kvm = Kvm::new().expect("/dev/kvm can be used");
        let vm = kvm.create_vm().expect("a virtual machine");
        // Intel's processors may need three pages that no guest uses.
        vm.set_tss_address(0xfffb_d000).expect("room for a TSS");
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: (memory.pages * PAGE) as u64,
            userspace_addr: memory.address(),
        };
        // SAFETY: the region is an `Area`, which stays mapped until the process ends, and which is accessed through atomics
        // alone.
        unsafe { vm.set_user_memory_region(region) }.expect("guest memory");
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .expect("CPUID");
        let vcpu = |number: usize| {
            let vcpu = vm.create_vcpu(number as u64).expect("a vCPU");
            vcpu.set_cpuid2(&supported).expect("CPUID");
            prepare(&vcpu, mode, Start::of(number));
            Vcpu(vcpu)
        };
        Self {
            vcpus: (0..vcpus).map(vcpu).collect(),
            _vm: vm,
        }
    }
}

/// Sets the registers so that the vCPU is where a boot would get it.
fn prepare(vcpu: &VcpuFd, mode: Mode, start: Start) {
    const CODE: u8 = 0b1011;
    const DATA: u8 = 0b0011;
    let user = mode == Mode::User;
    let ring = if user { 3 } else { 0 };
    let segment = |index: u16, type_: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: index << 3 | u16::from(ring),
        type_,
        present: 1,
        dpl: ring,
        db: u8::from(type_ == DATA || !user),
        s: 1,
        l: u8::from(type_ == CODE && user),
        g: 1,
        ..kvm_segment::default()
    };
    let mut special = vcpu.get_sregs().expect("registers");
    let data = segment(2, DATA);
    special.cs = segment(1, CODE);
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.fs, special.gs) = (data, data);
    // Protection; numeric errors by exception.
    special.cr0 = 0x11;
    if user {
        // Paging, of the kind that long mode needs, and long mode.
        special.cr0 |= 1 << 31;
        special.cr4 = 1 << 5;
        special.cr3 = start.tables;
        special.efer = 1 << 8 | 1 << 10;
    }
    vcpu.set_sregs(&special).expect("registers");
    // The bit that is always set, and the right to use ports from ring 3.
    const FLAGS: u64 = 0x2 | 3 << 12;
    let registers = kvm_regs {
        rip: start.code,
        rsp: start.own,
        rbp: start.states,
        rflags: FLAGS,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers).expect("registers");
}

impl Vcpu {
    /// Lets the guest do something to its end.
    ///
    /// # Errors
    /// What KVM_RUN said that it should not.
    pub(crate) fn execute(&mut self, task: &Task) -> Result<Report, String> {
        let mut words = task.words().into_iter();
        let mut told = Vec::new();
        while told.len() < REPORT {
            match self.0.run() {
                Ok(VcpuExit::IoIn(PORT, data)) => {
                    let word = words.next().ok_or("the guest asks for too much")?;
                    data.copy_from_slice(&word.to_le_bytes());
                }
                Ok(VcpuExit::IoOut(PORT, data)) => {
                    let word = <[u8; 4]>::try_from(data).map_err(|_| "not a word")?;
                    told.push(u32::from_le_bytes(word));
                }
                Ok(other) => return Err(format!("the guest ended: {other:?}")),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(format!("KVM_RUN: {error}")),
            }
        }
        Ok(Report {
            wrong: told[0],
            first_wrong: told[1],
            looked_at: told[2],
        })
    }
}

/*
 * The only program of the test guest, started by its kernel as process 1.
 *
 * Fills memory with pages that each know which page they are, how often they were written and what the checksum of
 * their bytes is, and then checks them for ever. Console, one line each:
 *
 *   READY <pages of memory that are checked>
 *   LOOP <n> <checksum> <ok|BAD> <full|sparse>
 *   WRONG <what>                        before the LOOP line that says BAD
 *   HELD                                answer to "hold"; another line lets it go on, with a sparse loop
 *
 * Odd loops are sparse: one page in a hundred, at random. Even loops check everything, and then rewrite a part of it,
 * so that old memory is found as well as foreign memory. The checksum of a full loop covers the pages that are never
 * rewritten: it is the same in every full loop of a guest's life.
 *
 * Arguments: MiB of anonymous memory, MiB of tmpfs. A virtio disk, if there is one, is used as well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

typedef unsigned long u64;

enum { PAGE = 4096, WORDS = PAGE / 8, MAX_THREADS = 8 };
enum { DISK_PAGES = 4096, SCRATCH_PAGES = 4, BUFFER_PAGES = 64 };

/* Pages of one kind. A page's first word says kind and number, the second how often it was written, the last has the
 * checksum of all others. */
struct area {
    const char *name;
    u64 (*page)[WORDS];
    u64 pages;
    int rewritten;
};

enum { ANON, TMPFS, DISK, BUFFER, AREAS };
static struct area areas[AREAS] = {
    [ANON] = {.name = "anon"}, [TMPFS] = {.name = "tmpfs"}, [DISK] = {.name = "disk"}, [BUFFER] = {.name = "buffer"}};

static u64 full_loops; /* that have rewritten their part */
static int threads;
static int direct = -1; /* the disk, past the guest's page cache */
static char reference[128];

static void say(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    /* One call, so that a line stays together. */
    if (write(1, line, len) != len)
        reboot(RB_AUTOBOOT);
}

static void must(int good, const char *what)
{
    if (good)
        return;
    say("GUEST-FAILED %s: %m\n", what);
    reboot(RB_AUTOBOOT); /* with -no-reboot: the end of QEMU */
    _exit(1);
}

static u64 next(u64 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static u64 checksum(const u64 *page)
{
    u64 sum = 0x9e3779b97f4a7c15;
    for (int i = 0; i < WORDS - 1; i++)
        sum = (sum ^ page[i]) * 0xff51afd7ed558ccd;
    return sum ^ sum >> 32;
}

static u64 identity(int area, u64 page)
{
    return 0x5047000000000000 | (u64)(area + 1) << 40 | page;
}

/* In 64 bytes, 24 that cannot be compressed and 40 of one line out of 32: zstd and LZ4 make it two to three times smaller. */
static void make(u64 *page, u64 id, u64 generation)
{
    static const char line[] = "GET /assets/site/main.css HTTP/1.1 200 -> cache hit, age 86400 s; keep-alive";
    u64 state = (id + generation * 0x100000001b3) * 0x9e3779b97f4a7c15 | 1;
    for (int i = 0; i < WORDS; i += 8) {
        for (int word = 0; word < 3; word++)
            page[i + word] = next(&state);
        memcpy(&page[i + 3], line + (state & 31), 40);
    }
    page[0] = id;
    page[1] = generation;
    page[WORDS - 1] = checksum(page);
}

/* One page in sixteen is rewritten, after every eighth full loop. */
static int is_rewritten(int area, u64 page)
{
    return areas[area].rewritten && page % 16 == 15;
}

static u64 generation_of(int area, u64 page)
{
    u64 turn = page / 16 % 8;
    if (!is_rewritten(area, page) || full_loops < turn || full_loops == 0)
        return 0;
    return full_loops - (full_loops - turn) % 8;
}

/* Is this the page it should be? Adds the checksum of one that never changes. */
static int check(const char *where, const u64 *found, int area, u64 page, u64 *sum)
{
    u64 id = identity(area, page), generation = generation_of(area, page), expected = checksum(found);
    const char *what = found[0] != id           ? "another page"
                       : found[1] != generation ? "of another time"
                       : found[WORDS - 1] != expected ? "damaged"
                                                      : NULL;
    if (!what) {
        if (!is_rewritten(area, page))
            *sum += expected * (page + 1);
        return 0;
    }
    static int said;
    if (__atomic_fetch_add(&said, 1, __ATOMIC_RELAXED) < 20)
        say("WRONG %s page %lu of %s is %s: %016lx %016lx ... %016lx\n", where, page, areas[area].name, what, found[0],
            found[1], found[WORDS - 1]);
    return 1;
}

/* What one thread does in one loop. */
struct part {
    pthread_t thread;
    u64 first, sum, random;
    int full, wrong;
};

static void *check_part(void *argument)
{
    struct part *part = argument;
    part->sum = part->wrong = 0;
    for (int area = ANON; area <= DISK; area++) {
        u64 pages = areas[area].pages;
        /* Threads take turns page by page, so that they meet in the same frames of a snapshot. */
        if (part->full)
            for (u64 page = part->first; page < pages; page += threads)
                part->wrong += check("full:", areas[area].page[page], area, page, &part->sum);
        else
            for (u64 left = pages / 100 / threads; left; left--) {
                u64 page = next(&part->random) % pages;
                part->wrong += check("sparse:", areas[area].page[page], area, page, &part->sum);
            }
    }
    return NULL;
}

static struct part parts[MAX_THREADS];

static int check_memory(int full, u64 *sum)
{
    int wrong = 0;
    for (int i = 0; i < threads; i++) {
        parts[i].full = full;
        must(!pthread_create(&parts[i].thread, NULL, check_part, &parts[i]), "pthread_create");
    }
    *sum = 0;
    for (int i = 0; i < threads; i++) {
        must(!pthread_join(parts[i].thread, NULL), "pthread_join");
        wrong += parts[i].wrong;
        *sum += parts[i].sum;
    }
    return wrong;
}

/* The disk's own access to memory: in a restored guest the device is the first that touches these pages. */
static int check_disk(u64 *random)
{
    static u64 wanted[WORDS], turn;
    u64 ignored = 0;
    int wrong = 0;
    if (direct < 0)
        return 0;
    for (int i = 0; i < SCRATCH_PAGES; i++, turn++) {
        off_t scratch = (off_t)(DISK_PAGES + i) * PAGE;
        /* From memory to the disk, and back to other memory. */
        u64 page = next(random) % areas[ANON].pages;
        u64 *whole = areas[BUFFER].page[turn % (BUFFER_PAGES / 2)];
        must(pwrite(direct, areas[ANON].page[page], PAGE, scratch) == PAGE, "write to the disk");
        must(pread(direct, whole, PAGE, scratch) == PAGE, "read from the disk");
        wrong += check("disk:", whole, ANON, page, &ignored);

        /* Into the middle of a page: what is around it must stay. */
        u64 number = BUFFER_PAGES / 2 + turn % (BUFFER_PAGES / 2), from = next(random) % DISK_PAGES;
        u64 *around = areas[BUFFER].page[number];
        must(pread(direct, around + 64, 1024, (off_t)from * PAGE + 512) == 1024, "read a piece from the disk");
        make(wanted, identity(DISK, from), 0);
        u64 piece[128];
        memcpy(piece, wanted + 64, sizeof piece);
        make(wanted, identity(BUFFER, number), 0);
        u64 last = wanted[WORDS - 1];
        memcpy(wanted + 64, piece, sizeof piece);
        wanted[WORDS - 1] = last;
        if (memcmp(wanted, around, PAGE)) {
            say("WRONG buffer page %lu after reading from the disk into its middle\n", number);
            wrong++;
        }
        make(around, identity(BUFFER, number), 0);
    }
    return wrong;
}

/* A program starts, reads a file and ends: page tables, page cache, a new process. */
static void hash_file(char answer[static 128])
{
    static char *const command[] = {"busybox", "sha256sum", "/data/words", NULL};
    int ends[2], status, len = 0, got;
    pid_t child;
    posix_spawn_file_actions_t actions;
    must(!pipe2(ends, O_CLOEXEC), "pipe");
    must(!posix_spawn_file_actions_init(&actions) && !posix_spawn_file_actions_adddup2(&actions, ends[1], 1), "spawn");
    must(!posix_spawn(&child, "/bin/busybox", &actions, NULL, command, NULL), "start busybox");
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    while ((got = read(ends[0], answer + len, 127 - len)) > 0)
        len += got;
    answer[len] = 0;
    close(ends[0]);
    must(waitpid(child, &status, 0) == child, "wait for busybox");
    if (status)
        strcpy(answer, "busybox failed");
}

static int check_program(void)
{
    char answer[128];
    hash_file(answer);
    if (!strcmp(answer, reference))
        return 0;
    say("WRONG answer of a program: %s", answer);
    return 1;
}

static void rewrite(void)
{
    full_loops++;
    for (int area = ANON; area < AREAS; area++)
        for (u64 page = 15; page < areas[area].pages; page += 16)
            if (is_rewritten(area, page) && generation_of(area, page) == full_loops)
                make(areas[area].page[page], identity(area, page), full_loops);
}

/* Waits if the other end of the console said so. */
static void hold(void)
{
    char line[64];
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (poll(&input, 1, 0) != 1 || read(0, line, sizeof line) <= 0)
        return;
    say("HELD\n");
    must(read(0, line, sizeof line) > 0, "read the console");
}

/* Which module needs which differs between kernels: one that cannot be loaded yet is tried again after the others. */
static void load_modules(void)
{
    int left = 1;
    for (int round = 0; left && round < 8; round++) {
        left = 0;
        for (int number = 0;; number++) {
            char path[64];
            snprintf(path, sizeof path, "/modules/%d", number);
            int file = open(path, O_RDONLY | O_CLOEXEC);
            if (file < 0)
                break;
            if (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
                left = errno;
            close(file);
        }
    }
    errno = left;
    must(!left, "load the modules");
}

static void fill(int area, void *memory, u64 pages, int rewritten)
{
    must(memory != MAP_FAILED, areas[area].name);
    areas[area].page = memory;
    areas[area].pages = pages;
    areas[area].rewritten = rewritten;
    for (u64 page = 0; page < pages; page++)
        make(areas[area].page[page], identity(area, page), 0);
}

static void *anonymous(u64 pages)
{
    return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void set_up_disk(void)
{
    static u64 page[WORDS] __attribute__((aligned(4096)));
    int disk = open("/dev/vda", O_RDWR | O_CLOEXEC);
    if (disk < 0)
        return;
    for (u64 number = 0; number < DISK_PAGES; number++) {
        make(page, identity(DISK, number), 0);
        must(write(disk, page, PAGE) == PAGE, "fill the disk");
    }
    must(!fsync(disk), "fsync");
    areas[DISK].page = mmap(NULL, DISK_PAGES * PAGE, PROT_READ, MAP_SHARED, disk, 0);
    must(areas[DISK].page != MAP_FAILED, "map the disk");
    areas[DISK].pages = DISK_PAGES;
    direct = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    must(direct >= 0, "open the disk");
    fill(BUFFER, anonymous(BUFFER_PAGES), BUFFER_PAGES, 0);
}

int main(int count, char **arguments)
{
    mkdir("/dev", 0755);
    mkdir("/data", 0755);
    must(!mount("dev", "/dev", "devtmpfs", 0, NULL), "mount /dev");
    int console = open("/dev/console", O_RDWR);
    for (int to = 0; to < 3; to++)
        dup2(console, to);
    struct termios terminal;
    tcgetattr(0, &terminal);
    terminal.c_lflag &= ~ECHO;
    tcsetattr(0, TCSANOW, &terminal);
    must(count == 3, "arguments");
    load_modules();
    must(!mount("data", "/data", "tmpfs", 0, "size=90%"), "mount /data");
    threads = sysconf(_SC_NPROCESSORS_ONLN);
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;

    u64 pages = strtoul(arguments[1], NULL, 10) << 8;
    fill(ANON, anonymous(pages), pages, 1);
    pages = strtoul(arguments[2], NULL, 10) << 8;
    int file = open("/data/pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(file >= 0 && !ftruncate(file, pages * PAGE), "create a file in tmpfs");
    fill(TMPFS, mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), pages, 1);
    file = open("/data/words", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (u64 page = 0; page < 256; page++)
        must(write(file, areas[ANON].page[page], PAGE) == PAGE, "write a file");
    close(file);
    hash_file(reference);
    set_up_disk();
    say("READY %lu\n", areas[ANON].pages + areas[TMPFS].pages + areas[DISK].pages);

    u64 random = 88172645463325252;
    for (int i = 0; i < threads; i++)
        parts[i] = (struct part){.first = i, .random = next(&random)};
    for (u64 loop = 1;; loop++) {
        int full = loop % 2 == 0;
        u64 sum;
        if (!full)
            hold();
        int wrong = check_memory(full, &sum) + check_disk(&random) + (full ? check_program() : 0);
        say("LOOP %lu %016lx %s %s\n", loop, sum, wrong ? "BAD" : "ok", full ? "full" : "sparse");
        if (full)
            rewrite();
    }
}

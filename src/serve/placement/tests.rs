use super::*;

const ROOT: SpaceId = SpaceId(0);

const fn keep(core: usize) -> Step {
    Step::Keep {
        core,
        humble: false,
    }
}

/// A policy, and a thread that faults.
struct Play {
    policy: Policy,
    now: Instant,
    thread: u32,
    run: u64,
    /// What a look finds.
    core: Option<usize>,
    waited: Duration,
    quiet: bool,
    looks: u64,
}

impl Play {
    fn new() -> Self {
        Self {
            policy: Policy::default(),
            now: Instant::now(),
            thread: 7,
            run: 0,
            core: Some(3),
            waited: Duration::ZERO,
            quiet: false,
            looks: 0,
        }
    }

    fn fault(&mut self, busy: bool) -> Step {
        self.run += 1;
        let faulter = Faulter {
            thread: (self.thread > 0).then_some((ROOT, self.thread)),
            run: self.run,
        };
        match self.policy.next(faulter, busy, self.now) {
            Step::Look => {
                self.looks += 1;
                let seen = Seen {
                    core: self.core,
                    waited: self.waited,
                    quiet: self.quiet,
                };
                self.policy.found(seen, self.now)
            }
            step => step,
        }
    }

    /// The steps that changed something.
    fn faults(&mut self, count: u64) -> Vec<Step> {
        let steps = (0..count).map(|_| self.fault(false));
        steps.filter(|step| *step != Step::Stay).collect()
    }

    fn another(&mut self, thread: u32) {
        (self.thread, self.run) = (thread, 0);
    }
}

#[test]
fn a_thread_that_faults_alone_is_followed() {
    let mut play = Play::new();
    assert_eq!(play.faults(ALONE - 1), []);
    assert_eq!(play.faults(2), [keep(3)]);
    assert_eq!(play.faults(1000), []);
    play.core = Some(1);
    assert_eq!(play.faults(2 * LAST_LOOK), [keep(1)]);
}

#[test]
fn the_loop_is_humble_only_when_nothing_else_runs() {
    let mut play = Play::new();
    let humble = Step::Keep {
        core: 3,
        humble: true,
    };
    play.quiet = true;
    assert_eq!(play.faults(ALONE + 1), [humble]);
    assert_eq!(play.faults(1), []);
    // It is noticed soon, however few faults there are.
    play.quiet = false;
    play.now += 2 * OFTEN;
    assert_eq!(play.faults(1), [keep(3)]);
    play.quiet = true;
    assert_eq!(play.faults(1000), [], "it was wrong just now");
    play.now += REST;
    assert_eq!(play.faults(2 * LAST_LOOK), [humble]);
    assert_eq!(play.fault(true), Step::LetGo);
    assert!(!play.policy.humble);
}

#[test]
fn looks_become_rare() {
    let mut play = Play::new();
    play.faults(100_000);
    assert!(play.looks < 100_000 / LAST_LOOK + 10, "{}", play.looks);
}

#[test]
fn several_are_left_to_the_scheduler() {
    let mut play = Play::new();
    for turn in 0..1000 {
        play.another(1 + turn % 2);
        assert_eq!(play.faults(ALONE - 1), []);
    }
    assert_eq!(play.looks, 0);
    play.faults(ALONE);
    play.another(9);
    assert_eq!(play.faults(1), [Step::LetGo]);
    play.another(0);
    assert_eq!(play.faults(1000), [], "nobody knows who it is");
}

#[test]
fn who_has_more_to_do_is_not_kept() {
    let mut play = Play::new();
    assert_eq!(play.faults(ALONE + 1), [keep(3)]);
    assert_eq!(play.fault(true), Step::LetGo);
    assert_eq!(play.fault(true), Step::Stay);
    assert_eq!(play.faults(ALONE - 1), []);
    assert_eq!(play.faults(1), [keep(3)]);
}

#[test]
fn a_thread_that_is_not_found_is_not_looked_for_again_and_again() {
    let mut play = Play::new();
    play.core = None;
    assert_eq!(play.faults(100_000), []);
    assert_eq!(play.looks, 1);
    play.now += REST;
    play.core = Some(2);
    assert_eq!(play.faults(2 * LAST_LOOK), [keep(2)]);
}

#[test]
fn who_waits_for_its_core_is_let_go_for_a_while() {
    let mut play = Play::new();
    assert_eq!(play.faults(ALONE + 1), [keep(3)]);
    play.waited = PATIENCE * 10;
    assert_eq!(play.faults(10_000), [Step::LetGo]);
    play.now += REST;
    assert_eq!(play.faults(2 * LAST_LOOK), [keep(3)]);
    // A wait now and then is what everybody has.
    for _ in 0..100 {
        play.waited += PATIENCE;
        assert_eq!(play.faults(LAST_LOOK), []);
    }
}

#[test]
fn who_is_never_where_it_was_is_not_chased_for_ever() {
    let mut play = Play::new();
    let mut moves = 0;
    for fault in 0..10_000 {
        play.core = Some(fault % 2);
        moves += usize::from(matches!(play.fault(false), Step::Keep { .. }));
    }
    assert!(moves <= CHASE as usize, "{moves}");
}

#[test]
fn fields_are_found_behind_any_name() {
    let mut stat = b"42 (a) b (c)) S".to_vec();
    for field in 4..=52 {
        stat.extend_from_slice(format!(" {field}").as_bytes());
    }
    assert_eq!(processor_in(&stat), Some(39));
    assert_eq!(processor_in(b"42 (a"), None);
    assert_eq!(running_in(b"0.01 0.02 0.03 2/345 6789\n"), Some(2));
    let waited = waited_in(b"1000 2000 3\n");
    assert_eq!(waited, Some(Duration::from_nanos(2000)));
}

#[test]
fn a_thread_is_kept_where_it_may_run_and_no_longer_than_this_lives() {
    let before = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    let mut placement = Placement::of_this_thread(true);
    let Some(allowed) = placement.allowed else {
        eprintln!("SKIPPED: there is one core only");
        return;
    };
    let core = (0..CpuSet::count()).rfind(|&core| allowed.is_set(core) == Ok(true));
    let core = core.expect("a core");
    placement.keep_on(core);
    placement.be_humble(placement.can_be_humble);
    let kept = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    assert!(count(&kept) == 1 && kept.is_set(core) == Ok(true));
    drop(placement);
    let after = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    assert_eq!(before, after);
    let stat = std::fs::read("/proc/thread-self/stat").expect("proc");
    assert_eq!(
        field_in::<u32>(&stat, 41),
        Some(0),
        "an ordinary thread again"
    );
}

#[test]
fn somebody_elses_decision_is_left_alone() {
    let mut placement = Placement::of_this_thread(true);
    if placement.allowed.is_none() {
        eprintln!("SKIPPED: there is one core only");
        return;
    }
    let allowed = placement.allowed.expect("just seen");
    let cores: Vec<usize> = (0..CpuSet::count())
        .filter(|&core| allowed.is_set(core) == Ok(true))
        .collect();
    placement.keep_on(cores[0]);
    let mut other = CpuSet::new();
    other.set(cores[1]).expect("a core");
    sched_setaffinity(Pid::from_raw(0), &other).expect("the affinity");
    placement.keep_on(cores[0]);
    let after = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
    assert!(count(&after) == 1 && after.is_set(cores[1]) == Ok(true));
}

#[test]
fn this_thread_is_found() {
    let me = i32::try_from(std::process::id()).expect("a pid");
    let target = Target::open(me, String::new()).expect("I exist");
    let thread = u32::try_from(nix::unistd::gettid().as_raw()).expect("a number");
    let mut placement = Placement::of_this_thread(true);
    if placement.allowed.is_none() {
        eprintln!("SKIPPED: there is one core only");
        return;
    }
    assert!(placement.core_of((ROOT, thread), &target).is_some());
    assert!(placement.core_of((ROOT, u32::MAX), &target).is_none());
}

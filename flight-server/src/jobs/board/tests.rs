//! The board against lists of what happens: what is asked for is made, whoever dies.

use proptest::prelude::*;

use super::*;
use crate::jobs::record::{FailureKind, Progress, WorkerShare};
use crate::jobs::spec::Priority;
use crate::jobs::task::Counts;

fn terms(priority: Priority) -> JobTerms {
    JobTerms {
        priority,
        bandwidth: None,
        verifies: false,
        decodes: false,
        only_verifies: false,
        spent: Spent::default(),
        found: Found::default(),
    }
}

fn task(workers: &[&str], file: u32) -> NewTask<()> {
    NewTask {
        identity: u128::from(file) * 7 + workers.iter().map(|id| u128::from(id.as_bytes()[0])).sum::<u128>() * 1_000,
        workers: workers.iter().map(|&id| id.to_owned()).collect(),
        files: vec![file],
        row_groups: 1,
        bytes: 100,
        decoded_bytes: 0,
        mount: "/m".to_owned(),
        payload: (),
    }
}

fn pull(worker: &str, generation: u64, room: usize, reports: Vec<Report>) -> Pull {
    Pull {
        worker: worker.to_owned(),
        generation,
        room,
        reports,
        spent: BTreeMap::new(),
    }
}

fn done(id: TaskId) -> Report {
    Report {
        id,
        done: true,
        counts: Counts {
            row_groups: 1,
            row_groups_done: 1,
            bytes: 100,
            bytes_done: 100,
            ..Counts::default()
        },
        ..Report::default()
    }
}

fn failed(id: TaskId, kind: FailureKind) -> Report {
    let failure = Failure {
        path: format!("/m/{id}"),
        row_group: None,
        kind,
        error: "no".to_owned(),
        tries: 1,
    };
    Report {
        id,
        done: true,
        failures: vec![failure],
        ..Report::default()
    }
}

fn board(tasks: Vec<NewTask<()>>) -> Board<()> {
    let mut board = Board::default();
    board.begin("job", terms(Priority::Normal));
    let files = u32::try_from(tasks.len()).unwrap();
    board.add("job", tasks, files, Vec::new());
    board.listed("job");
    board
}

const NOW: Duration = Duration::ZERO;

fn progress(board: &mut Board<()>) -> Progress {
    board.progress(NOW, "job", |_| "serving")
}

#[test]
fn a_worker_that_still_asks_for_a_job_that_ended_is_not_kept_waiting() {
    let mut board = board(vec![task(&["a"], 0)]);
    let spent = BTreeMap::from([("job".to_owned(), Spent::default())]);
    let idle = Pull {
        spent,
        ..pull("a", 1, 0, Vec::new())
    };
    let (_, jobs) = board.pull(NOW, &idle);
    assert!(idle.may_wait(&jobs), "the job goes on, and what it asks is wanted");
    // The job ends between two pulls: nobody is waiting then who could be told.
    board.end("job");
    let (_, jobs) = board.pull(NOW, &idle);
    assert!(!idle.may_wait(&jobs));
    assert!(pull("a", 1, 0, Vec::new()).may_wait(&jobs), "after it has let go of it");
    assert!(
        !pull("a", 1, 0, vec![Report::default()]).may_wait(&jobs),
        "with something in hand"
    );
}

#[test]
fn a_task_is_made_by_its_owner_and_then_by_those_that_stand_in() {
    let mut board = board(vec![task(&["a", "b"], 0)]);
    assert!(
        board.pull(NOW, &pull("b", 1, 9, vec![])).0.is_empty(),
        "the owner first"
    );
    let given = board.pull(NOW, &pull("a", 1, 9, vec![])).0;
    assert_eq!(given.len(), 1);
    assert!(!board.is_round_over("job"));
    board.pull(NOW, &pull("a", 1, 0, vec![done(given[0])]));
    assert!(!board.is_round_over("job"));
    assert_eq!(board.pull(NOW, &pull("b", 1, 9, vec![])).0, given);
    board.pull(NOW, &pull("b", 1, 0, vec![done(given[0])]));
    assert!(board.is_round_over("job"));
    let progress = progress(&mut board);
    assert_eq!((progress.files, progress.files_done), (1, 1));
    assert_eq!(
        (progress.bytes, progress.bytes_done, progress.row_groups_done),
        (200, 200, 2)
    );
    assert!(progress.workers.iter().all(|worker| worker.tasks_done == 1));
}

#[test]
fn what_an_answer_has_no_room_for_is_given_with_the_next_one() {
    let mut board = board((0..4).map(|file| task(&["a"], file)).collect());
    let given = board.pull(NOW, &pull("a", 1, 3, vec![])).0;
    let (ordered, kept) = (given[0], &given[1..]);
    board.take_back(kept);
    let in_hand = Report {
        id: ordered,
        ..Report::default()
    };
    assert_eq!(board.in_hand_of_mount["/m"], 1);
    assert_eq!(board.pull(NOW, &pull("a", 1, 2, vec![in_hand.clone()])).0, kept);
    assert_eq!(board.in_hand_of_mount["/m"], 3);
    // What is taken back twice, or was done meanwhile, is in no queue twice.
    board.take_back(kept);
    board.take_back(kept);
    board.pull(NOW, &pull("a", 1, 0, vec![done(ordered)]));
    board.take_back(&[ordered]);
    let rest = board.pull(NOW, &pull("a", 1, 9, vec![])).0;
    assert_eq!(rest.len(), 3);
    board.pull(NOW, &pull("a", 1, 0, rest.into_iter().map(done).collect()));
    assert!(board.is_round_over("job"));
    assert!(board.in_hand_of_mount.is_empty());
}

#[test]
fn what_was_taken_back_has_been_tried_as_often_as_before() {
    let mut board = board(vec![task(&["a"], 0)]);
    let mut now = NOW;
    for _ in 0..MAX_TRIES {
        assert!(!board.is_round_over("job"));
        let given = board.pull(now, &pull("a", 1, 1, vec![])).0;
        board.take_back(&given);
        assert_eq!(board.pull(now, &pull("a", 1, 1, vec![])).0, given);
        board.pull(now, &pull("a", 1, 0, vec![failed(given[0], FailureKind::Storage)]));
        now += Duration::from_secs(60);
    }
    assert!(board.is_round_over("job"));
}

#[test]
fn an_order_that_never_arrived_is_given_again() {
    let mut board = board(vec![task(&["a"], 0)]);
    let given = board.pull(NOW, &pull("a", 1, 1, vec![])).0;
    assert_eq!(board.pull(NOW, &pull("a", 1, 1, vec![])).0, given);
}

#[test]
fn what_a_process_held_in_memory_is_asked_of_its_successor() {
    let mut board = board(vec![task(&["a"], 0), task(&["a"], 1)]);
    let given = board.pull(NOW, &pull("a", 1, 2, vec![])).0;
    board.pull(NOW, &pull("a", 1, 0, vec![done(given[0])]));
    assert_eq!(progress(&mut board).bytes_done, 100);
    let again = board.pull(NOW, &pull("a", 2, 9, vec![])).0;
    assert_eq!(again.len(), 2, "the one that was done, and the one in hand");
    assert_eq!(progress(&mut board).bytes_done, 0);
}

#[test]
fn passing_failures_are_tried_again_later_and_others_are_not() {
    let mut board = board(vec![task(&["a"], 0), task(&["a"], 1)]);
    let given = board.pull(NOW, &pull("a", 1, 2, vec![])).0;
    let reports = vec![
        failed(given[0], FailureKind::Storage),
        failed(given[1], FailureKind::NotFound),
    ];
    assert!(board.pull(NOW, &pull("a", 1, 9, reports)).0.is_empty());
    let mut now = NOW;
    for _ in 1..MAX_TRIES {
        now += Duration::from_secs(60);
        assert_eq!(board.pull(now, &pull("a", 1, 9, vec![])).0, [given[0]]);
        board.pull(now, &pull("a", 1, 0, vec![failed(given[0], FailureKind::Storage)]));
    }
    assert!(board.is_round_over("job"));
    let progress = progress(&mut board);
    let tries: Vec<u32> = progress.failures.iter().map(|failure| failure.tries).collect();
    assert_eq!((tries, progress.retries, progress.files_done), (vec![5, 1], 4, 0));
}

#[test]
fn jobs_share_a_worker_by_their_weights() {
    let mut board = Board::default();
    for (job, priority) in [("high", Priority::High), ("low", Priority::Low)] {
        board.begin(job, terms(priority));
        board.add(
            job,
            (0..1000).map(|file| task(&["a"], file)).collect(),
            1000,
            Vec::new(),
        );
        board.listed(job);
    }
    let given = board.pull(NOW, &pull("a", 1, 170, vec![])).0;
    assert_eq!(given.len(), 170);
    let low = given
        .iter()
        .filter(|id| board.payload(**id).unwrap().0 == "low")
        .count();
    assert!((8..=12).contains(&low), "{low} of 170, for 1 part in 17");
}

#[test]
fn a_job_that_comes_later_takes_its_turn_at_once_and_no_more() {
    let mut board = board((0..500).map(|file| task(&["a"], file)).collect());
    board.pull(NOW, &pull("a", 1, 100, vec![]));
    board.begin("later", terms(Priority::Normal));
    board.add(
        "later",
        (0..500).map(|file| task(&["a"], file)).collect(),
        500,
        Vec::new(),
    );
    let reports = Vec::new();
    let given = board.pull(NOW, &pull("b", 1, 1, reports)).0;
    assert!(given.is_empty());
    let in_hand: Vec<Report> = board.workers["a"]
        .in_hand
        .iter()
        .map(|id| Report {
            id: *id,
            ..Report::default()
        })
        .collect();
    let given = board.pull(NOW, &pull("a", 1, 20, in_hand)).0;
    let later = given
        .iter()
        .filter(|id| board.payload(**id).unwrap().0 == "later")
        .count();
    assert!((9..=11).contains(&later), "{later} of 20");
}

#[test]
fn full_hands_still_take_the_first_task_of_a_job() {
    let mut board = board((0..50).map(|file| task(&["a"], file)).collect());
    let held = board.pull(NOW, &pull("a", 1, 12, vec![])).0;
    board.begin("later", terms(Priority::Low));
    board.add(
        "later",
        (0..50).map(|file| task(&["a"], file)).collect(),
        50,
        Vec::new(),
    );
    let in_hand: Vec<Report> = held
        .iter()
        .map(|id| Report {
            id: *id,
            ..Report::default()
        })
        .collect();
    let given = board.pull(NOW, &pull("a", 1, 0, in_hand)).0;
    let jobs: Vec<&str> = given.iter().map(|id| board.payload(*id).unwrap().0).collect();
    assert_eq!(jobs, ["later"]);
}

#[test]
fn a_rate_is_shared_by_those_at_work() {
    let mut board = board(vec![task(&["a"], 0), task(&["b"], 1)]);
    board.jobs.get_mut("job").unwrap().terms.bandwidth = Some(100);
    assert_eq!(board.pull(NOW, &pull("a", 1, 1, vec![])).1["job"], Some(100));
    assert_eq!(board.pull(NOW, &pull("b", 1, 1, vec![])).1["job"], Some(50));
}

#[test]
fn whoever_plans_has_a_share_of_the_rate() {
    let bounded = || JobTerms {
        bandwidth: Some(120),
        ..terms(Priority::Normal)
    };
    let mut board = Board::default();
    board.begin("job", bounded());
    assert_eq!(board.rate_of("job"), Some(120), "it is alone");
    board.add("job", vec![task(&["a"], 0), task(&["b"], 1)], 2, Vec::new());
    board.pull(NOW, &pull("a", 1, 1, vec![]));
    assert_eq!(board.rate_of("job"), Some(60));
    assert_eq!(board.pull(NOW, &pull("b", 1, 1, vec![])).1["job"], Some(40));
    board.listed("job");
    assert_eq!(board.rate_of("job"), Some(60));
    // What is in hand goes on while the next round is planned.
    board.begin("job", bounded());
    assert_eq!(board.rate_of("job"), Some(40));
}

#[test]
fn what_was_found_outlives_the_round_that_found_it() {
    let mut board = board(vec![task(&["a"], 0), task(&["a"], 1)]);
    let given = board.pull(NOW, &pull("a", 1, 2, vec![])).0;
    let mut reports = vec![
        failed(given[0], FailureKind::Damaged),
        failed(given[1], FailureKind::Damaged),
    ];
    reports.iter_mut().for_each(|report| report.counts.damaged = 1);
    board.pull(NOW, &pull("a", 1, 0, reports));
    board.begin("job", terms(Priority::Normal));
    // One stays where it is, and the other one's place is another's.
    board.add("job", vec![task(&["a"], 0), task(&["b"], 1)], 2, Vec::new());
    board.listed("job");
    board.jobs.get_mut("job").unwrap().terms.verifies = true;
    let told = progress(&mut board);
    assert_eq!((told.failures_total, told.verified.unwrap().damaged), (2, 2));
}

#[test]
fn what_was_compared_is_told_by_worker() {
    let mut board = board(vec![task(&["a", "b"], 0)]);
    board.jobs.get_mut("job").unwrap().terms.verifies = true;
    for (worker, damaged) in [("a", 0), ("b", 3)] {
        let given = board.pull(NOW, &pull(worker, 1, 1, vec![])).0;
        let mut report = done(given[0]);
        report.counts.verified_row_groups = 1;
        report.counts.verified_bytes = 100;
        report.counts.damaged = damaged;
        board.pull(NOW, &pull(worker, 1, 0, vec![report]));
    }
    let told = progress(&mut board);
    let verified = told.verified.unwrap();
    assert_eq!((verified.row_groups, verified.bytes, verified.damaged), (2, 200, 3));
    let each = |share: &WorkerShare| (share.verified_row_groups, share.verified_bytes, share.damaged);
    assert_eq!(
        told.workers.iter().map(each).collect::<Vec<_>>(),
        [(1, 100, 0), (1, 100, 3)]
    );
}

#[test]
fn a_file_that_changed_counts_once_however_many_hold_it() {
    let mut board = board(vec![task(&["a", "b"], 0)]);
    board.jobs.get_mut("job").unwrap().terms.verifies = true;
    for worker in ["a", "b"] {
        let given = board.pull(NOW, &pull(worker, 1, 1, vec![])).0;
        board.pull(NOW, &pull(worker, 1, 0, vec![failed(given[0], FailureKind::Changed)]));
    }
    let told = progress(&mut board);
    assert_eq!((told.failures_total, told.verified.unwrap().changed), (2, 1));
    assert_eq!(board.failed_files("job"), 1);
}

#[test]
fn what_is_left_out_is_no_file_that_failed() {
    let left_out = Failure {
        path: "/m".to_owned(),
        row_group: None,
        kind: FailureKind::Capacity,
        error: "no room".to_owned(),
        tries: 0,
    };
    let mut board = Board::default();
    board.begin("job", terms(Priority::Normal));
    board.add("job", vec![task(&["a"], 0)], 1, vec![left_out]);
    board.listed("job");
    let given = board.pull(NOW, &pull("a", 1, 1, vec![])).0;
    board.pull(NOW, &pull("a", 1, 0, vec![done(given[0])]));
    let told = progress(&mut board);
    assert_eq!(
        (told.failures_total, told.files_done),
        (1, 1),
        "it is told all the same"
    );
    assert_eq!(board.failed_files("job"), 0);
}

#[test]
fn what_is_being_compared_is_compared_to_its_end() {
    let verifies = || JobTerms {
        verifies: true,
        ..terms(Priority::Normal)
    };
    let mut board = board(vec![task(&["a"], 0)]);
    board.begin("job", verifies());
    board.add("job", vec![task(&["a"], 0)], 1, Vec::new());
    board.listed("job");
    let given = board.pull(NOW, &pull("a", 1, 1, vec![])).0;
    board.begin("job", verifies());
    board.add("job", vec![task(&["b"], 0)], 1, Vec::new());
    board.listed("job");
    let moved = board.pull(NOW, &pull("b", 1, 1, vec![])).0;
    board.pull(NOW, &pull("b", 1, 0, vec![done(moved[0])]));
    assert!(!board.is_round_over("job"));
    board.pull(NOW, &pull("a", 1, 0, vec![failed(given[0], FailureKind::Damaged)]));
    assert!(board.is_round_over("job"));
    assert_eq!(progress(&mut board).failures_total, 1);
}

#[test]
fn a_round_that_begins_anew_keeps_what_is_the_same_and_forgets_the_rest() {
    let mut board = board(vec![task(&["a"], 0), task(&["a"], 1), task(&["a"], 2)]);
    let old = board.pull(NOW, &pull("a", 1, 2, vec![])).0;
    board.pull(
        NOW,
        &pull(
            "a",
            1,
            0,
            vec![
                done(old[0]),
                Report {
                    id: old[1],
                    ..Report::default()
                },
            ],
        ),
    );
    board.begin("job", terms(Priority::Normal));
    let moved = task(&["b"], 2);
    board.add("job", vec![task(&["a"], 0), task(&["a"], 1), moved], 3, Vec::new());
    board.listed("job");
    assert_eq!(progress(&mut board).bytes_done, 100, "what was done stays done");
    let given = board.pull(NOW, &pull("a", 1, 9, vec![done(old[1])])).0;
    assert!(given.is_empty(), "what moved is not this worker's any more");
    let given = board.pull(NOW, &pull("b", 1, 9, vec![])).0;
    assert_eq!(given.len(), 1);
    board.pull(NOW, &pull("b", 1, 9, vec![done(given[0])]));
    assert!(board.is_round_over("job"));
    board.end("job");
    assert!(
        board.pull(NOW, &pull("a", 1, 9, vec![])).1.is_empty(),
        "and its workers hear that it is over"
    );
    assert!(board.tasks.is_empty() && board.in_hand_of_mount.is_empty());
}

/// What happens to one of three workers.
#[derive(Debug, Clone)]
enum Step {
    /// It pulls, and its answer arrives or not.
    Pull { worker: usize, room: usize, arrives: bool },
    /// It is done with what it has in hand; what `fails` passes fails for now.
    Finish { worker: usize, fails: bool },
    /// Its process begins anew.
    Die { worker: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..4usize, prop::bool::weighted(0.8))
            .prop_map(|(worker, room, arrives)| Step::Pull { worker, room, arrives }),
        3 => (0..3usize, prop::bool::weighted(0.1)).prop_map(|(worker, fails)| Step::Finish { worker, fails }),
        1 => (0..3usize).prop_map(|worker| Step::Die { worker }),
    ]
}

/// A worker as it sees itself.
#[derive(Debug, Default)]
struct Process {
    generation: u64,
    in_hand: BTreeMap<TaskId, Report>,
    /// Tasks that it made, in this life.
    made: HashSet<TaskId>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn act(board: &mut Board<()>, processes: &mut [Process], now: Duration, step: &Step) {
    match step {
        Step::Pull { worker, room, arrives } => {
            let process = &mut processes[*worker];
            let reports: Vec<Report> = process.in_hand.values().cloned().collect();
            let asked = pull(NAMES[*worker], process.generation, *room, reports.clone());
            let given = board.pull(now, &asked).0;
            if *arrives {
                reports.iter().filter(|report| report.done).for_each(|report| {
                    process.in_hand.remove(&report.id);
                });
                let new = given.into_iter().map(|id| {
                    (
                        id,
                        Report {
                            id,
                            ..Report::default()
                        },
                    )
                });
                process.in_hand.extend(new);
            }
        }
        Step::Finish { worker, fails } => {
            let process = &mut processes[*worker];
            for (id, report) in process.in_hand.iter_mut().filter(|(_, report)| !report.done) {
                *report = if *fails {
                    failed(*id, FailureKind::Storage)
                } else {
                    done(*id)
                };
                if !fails {
                    process.made.insert(*id);
                }
            }
        }
        Step::Die { worker } => {
            let generation = processes[*worker].generation + 1;
            processes[*worker] = Process {
                generation,
                ..Process::default()
            };
        }
    }
}

proptest! {
    /// Whatever happens, once everybody lives all is made, by living processes, and nothing is counted that is not.
    #[test]
    fn everything_is_made_in_the_end(
        owners in prop::collection::vec((0..3usize, 0..3usize), 1..20),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let tasks = owners.iter().zip(0u32..).map(|((owner, other), file)| {
            if owner == other { task(&[NAMES[*owner]], file) } else { task(&[NAMES[*owner], NAMES[*other]], file) }
        });
        let mut board = board(tasks.collect());
        let mut processes = [(); 3].map(|()| Process { generation: 1, ..Process::default() });
        let mut now = NOW;
        for step in &steps {
            now += Duration::from_secs(60);
            act(&mut board, &mut processes, now, step);
        }
        for _ in 0..200 {
            for worker in 0..3 {
                now += Duration::from_secs(60);
                act(&mut board, &mut processes, now, &Step::Pull { worker, room: 5, arrives: true });
                act(&mut board, &mut processes, now, &Step::Finish { worker, fails: false });
            }
        }
        prop_assert!(board.is_round_over("job"));
        let told = board.progress(now, "job", |_| "serving");
        let failed: usize = told.failures.len();
        let copies: usize = owners.iter().map(|(owner, other)| if owner == other { 1 } else { 2 }).sum();
        prop_assert_eq!(told.row_groups, u64::try_from(copies).unwrap());
        prop_assert_eq!(told.row_groups_done + u64::try_from(failed).unwrap(), told.row_groups);
        let made: usize = processes.iter().map(|process| process.made.len()).sum();
        prop_assert!(made >= copies - failed, "{made} made of {copies}, {failed} failed for good");
        prop_assert!(board.in_hand_of_mount.is_empty());
        prop_assert!(board.workers.values().all(|worker| worker.in_hand.is_empty() && worker.queues.is_empty()));
    }
}

//! Questions to other nodes, gathered into calls.
//!
//! ```text
//! ask ── few calls to the node are under way ──> a call of its own, at once
//!    `── as many as may be ──> waits ── one of them ends ──> a call with all that wait
//! ```
//! So whoever has one question waits for nobody, and whoever has ten thousand makes a few long calls. There is no clock in
//! this: questions gather while calls take their time.
//!
//! A call is a task of its own. Whoever stops waiting for an answer holds up nobody; a call that fails leaves its own
//! questions without an answer, and no others.
//!
//! Lock order: one lock, held to queue questions and to take them; nothing is asked under it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How a node is asked.
#[async_trait]
pub(super) trait Ask: Send + Sync + 'static {
    /// What is asked.
    type Question: Send + 'static;
    /// What is answered.
    type Answer: Send + 'static;
    /// Calls to one node that are under way at once.
    const CALLS: usize;
    /// Most questions of one call.
    const QUESTIONS: usize;

    /// Calls a node. What it has not answered by the end, it does not answer.
    async fn ask(&self, id: &str, questions: Vec<Self::Question>, answers: Answers<Self::Answer>);
}

/// Where the answers of one call go, by the numbers of their questions.
pub(super) struct Answers<A>(Vec<Option<oneshot::Sender<A>>>);

impl<A> Answers<A> {
    /// Answers a question; false where there is none of this number, or it was answered.
    pub(super) fn give(&mut self, number: usize, answer: A) -> bool {
        let waiting = self.0.get_mut(number).and_then(Option::take);
        // Whoever asked may have gone.
        waiting.map(|waiting| waiting.send(answer)).is_some()
    }
}

/// Questions to any node.
pub(super) struct Batches<A: Ask> {
    asks: A,
    lines: Mutex<Lines<A>>,
}

type Lines<A> = HashMap<String, Line<<A as Ask>::Question, <A as Ask>::Answer>>;

/// The calls to one node. Nothing waits unless as many are under way as may be.
struct Line<Q, A> {
    calls: usize,
    waiting: VecDeque<Waiting<Q, A>>,
}

impl<Q, A> Default for Line<Q, A> {
    fn default() -> Self {
        Self {
            calls: 0,
            waiting: VecDeque::new(),
        }
    }
}

/// A question, and where its answer goes.
struct Waiting<Q, A> {
    question: Q,
    answer: oneshot::Sender<A>,
}

impl<A: Ask> Batches<A> {
    /// No questions yet.
    pub(super) fn new(asks: A) -> Arc<Self> {
        Arc::new(Self {
            asks,
            lines: Mutex::default(),
        })
    }

    /// A node's answer; none where it gives none.
    pub(super) async fn ask(self: &Arc<Self>, id: &str, question: A::Question) -> Option<A::Answer> {
        let (answer, answered) = oneshot::channel();
        self.queue(id, Waiting { question, answer });
        answered.await.ok()
    }

    fn queue(self: &Arc<Self>, id: &str, waiting: Waiting<A::Question, A::Answer>) {
        let mut lines = self.lines.lock();
        let line = lines.entry(id.to_owned()).or_default();
        if line.calls >= A::CALLS {
            line.waiting.push_back(waiting);
            return;
        }
        line.calls += 1;
        drop(lines);
        let call = Call {
            batches: Arc::clone(self),
            id: id.to_owned(),
            is_over: false,
        };
        tokio::spawn(call.run(waiting));
    }
}

/// One of the calls that may be under way to a node, made again as long as questions wait.
struct Call<A: Ask> {
    batches: Arc<Batches<A>>,
    id: String,
    is_over: bool,
}

impl<A: Ask> Call<A> {
    async fn run(mut self, first: Waiting<A::Question, A::Answer>) {
        let mut batch = vec![first];
        while !batch.is_empty() {
            let (questions, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|one| (one.question, Some(one.answer))).unzip();
            self.batches.asks.ask(&self.id, questions, Answers(answers)).await;
            batch = self.gathered();
        }
    }

    /// What has gathered meanwhile, as much as goes into one call. Where that is nothing, the call is over.
    fn gathered(&mut self) -> Vec<Waiting<A::Question, A::Answer>> {
        let mut lines = self.batches.lines.lock();
        let mut batch = Vec::new();
        if let Some(line) = lines.get_mut(&self.id) {
            while batch.len() < A::QUESTIONS
                && let Some(waiting) = line.waiting.pop_front()
            {
                // Whoever has gone need not be answered.
                if !waiting.answer.is_closed() {
                    batch.push(waiting);
                }
            }
        }
        if batch.is_empty() {
            end_call(&mut lines, &self.id);
            self.is_over = true;
        }
        batch
    }
}

impl<A: Ask> Drop for Call<A> {
    /// A call that panicked is over too.
    fn drop(&mut self) {
        if !self.is_over {
            end_call(&mut self.batches.lines.lock(), &self.id);
        }
    }
}

/// One call less is under way. What waits, should it have been the last, has no answer.
fn end_call<Q, A>(lines: &mut HashMap<String, Line<Q, A>>, id: &str) {
    let Some(line) = lines.get_mut(id) else { return };
    line.calls = line.calls.saturating_sub(1);
    if line.calls == 0 {
        lines.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;

    /// A call with this question among its own is answered by nobody.
    const FAILS: u32 = 666;
    /// A call with this one panics.
    const PANICS: u32 = 777;

    /// Doubles numbers, each call once it is let.
    struct Doubling {
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        let_through: Arc<Semaphore>,
    }

    #[async_trait]
    impl Ask for Doubling {
        type Question = u32;
        type Answer = u32;
        const CALLS: usize = 2;
        const QUESTIONS: usize = 4;

        async fn ask(&self, _id: &str, questions: Vec<u32>, mut answers: Answers<u32>) {
            self.calls.lock().push(questions.clone());
            self.let_through.acquire().await.unwrap().forget();
            assert!(!questions.contains(&PANICS), "a call that panics");
            if questions.contains(&FAILS) {
                return;
            }
            for (number, question) in questions.iter().enumerate() {
                assert!(answers.give(number, question * 2));
                assert!(!answers.give(number, question * 3));
            }
            assert!(!answers.give(questions.len(), 0));
        }
    }

    struct Rig {
        batches: Arc<Batches<Doubling>>,
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        let_through: Arc<Semaphore>,
    }

    impl Rig {
        fn new() -> Self {
            let (calls, let_through) = (Arc::default(), Arc::new(Semaphore::new(0)));
            let asks = Doubling {
                calls: Arc::clone(&calls),
                let_through: Arc::clone(&let_through),
            };
            Self {
                batches: Batches::new(asks),
                calls,
                let_through,
            }
        }

        /// Asks these, one after the other, and gives control back once all have gone on their way or wait.
        async fn ask(&self, questions: &[u32]) -> Vec<JoinHandle<Option<u32>>> {
            let mut asked = Vec::new();
            for &question in questions {
                let batches = Arc::clone(&self.batches);
                asked.push(tokio::spawn(async move { batches.ask("node", question).await }));
                // The test's runtime has one thread, which takes tasks in their order.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            asked
        }
    }

    async fn answers(asked: Vec<JoinHandle<Option<u32>>>) -> Vec<Option<u32>> {
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.unwrap());
        }
        answers
    }

    #[tokio::test]
    async fn a_lone_question_goes_at_once() {
        let rig = Rig::new();
        rig.let_through.add_permits(2);
        assert_eq!(rig.batches.ask("node", 7).await, Some(14));
        assert_eq!(rig.batches.ask("node", 8).await, Some(16));
        assert_eq!(*rig.calls.lock(), [vec![7], vec![8]]);
    }

    #[tokio::test]
    async fn questions_gather_while_calls_are_under_way() {
        let rig = Rig::new();
        let asked = rig.ask(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).await;
        assert_eq!(*rig.calls.lock(), [vec![0], vec![1]]);
        rig.let_through.add_permits(5);
        let expected: Vec<_> = (0u32..=10).map(|question| Some(question * 2)).collect();
        assert_eq!(answers(asked).await, expected);
        let gathered = [vec![0], vec![1], vec![2, 3, 4, 5], vec![6, 7, 8, 9], vec![10]];
        assert_eq!(*rig.calls.lock(), gathered);
    }

    #[tokio::test]
    async fn calls_to_one_node_hold_up_none_to_another() {
        let rig = Rig::new();
        let _held_up = rig.ask(&[0, 1, 2]).await;
        let batches = Arc::clone(&rig.batches);
        let other = tokio::spawn(async move { batches.ask("other", 3).await });
        tokio::task::yield_now().await;
        rig.let_through.add_permits(10);
        assert_eq!(other.await.unwrap(), Some(6));
    }

    #[tokio::test]
    async fn a_call_that_fails_leaves_its_own_questions_without_an_answer() {
        let rig = Rig::new();
        let asked = rig.ask(&[0, 1, 2, FAILS]).await;
        rig.let_through.add_permits(3);
        assert_eq!(answers(asked).await, [Some(0), Some(2), None, None]);
        rig.let_through.add_permits(1);
        assert_eq!(answers(rig.ask(&[3]).await).await, [Some(6)]);
    }

    #[tokio::test]
    async fn whoever_has_gone_is_not_asked_for_and_holds_up_nobody() {
        let rig = Rig::new();
        let mut asked = rig.ask(&[0, 1, 2, 3]).await;
        // One of a call that is under way, one that waits.
        for gone in [asked.remove(2), asked.remove(0)] {
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
        }
        rig.let_through.add_permits(3);
        assert_eq!(answers(asked).await, [Some(2), Some(6)]);
        assert_eq!(*rig.calls.lock(), [vec![0], vec![1], vec![3]]);
    }

    #[tokio::test]
    async fn a_call_that_panics_holds_up_nobody() {
        let rig = Rig::new();
        let asked = rig.ask(&[PANICS, PANICS, 1]).await;
        rig.let_through.add_permits(2);
        assert_eq!(answers(asked).await, [None::<u32>; 3]);
        rig.let_through.add_permits(1);
        assert_eq!(answers(rig.ask(&[2]).await).await, [Some(4)]);
    }
}

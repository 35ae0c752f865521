//! The seats of an epoch: who sits in which slot, and which slots are vacant.
//!
//! Slots are numbered from 0, and splits are placed by the numbers of slots, never by names. A seat that is given
//! up leaves its slot vacant; who joins takes the slot that was vacated last, or the one that it had itself before,
//! and only when none is vacant a new one at the end. So a leave and a join after it change nothing but who sits
//! there, and a worker that replaces another takes over exactly its splits.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::key::{to_u32, to_usize};

/// The most slots of an epoch, vacant ones among them.
pub const MAX_SEATS: usize = 10_000;

/// The longest id of a node, in bytes; a UUID's text has 36.
pub const MAX_NODE_ID_BYTES: usize = 40;

/// The persisted identity of a node: 1 to [`MAX_NODE_ID_BYTES`] ASCII letters, digits and `-`; a UUID by custom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Box<str>);

impl NodeId {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = SeatsError;

    fn from_str(text: &str) -> Result<Self, SeatsError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if text.is_empty() || text.len() > MAX_NODE_ID_BYTES || !text.bytes().all(good) {
            return Err(SeatsError::NodeId);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for NodeId {
    type Error = SeatsError;

    fn try_from(text: String) -> Result<Self, SeatsError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who sits in a slot, or did last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// The node.
    pub id: NodeId,
    /// Its capacity in bytes; only the proportions between seats count, and 0 counts as 1.
    pub weight: u64,
}

/// The slots of an epoch, and those of them that are vacant, in the order in which they were vacated. A vacant
/// slot keeps its last seat: its weight is still needed to place, and its node may come back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Seats {
    seats: Vec<Seat>,
    vacant: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    seats: Vec<Seat>,
    #[serde(default)]
    vacant: Vec<u32>,
}

impl TryFrom<Unchecked> for Seats {
    type Error = SeatsError;

    fn try_from(Unchecked { seats, vacant }: Unchecked) -> Result<Self, SeatsError> {
        Self::from_parts(seats, vacant)
    }
}

impl Seats {
    /// Seats in slots 0, 1, 2 and on, none of them vacant.
    ///
    /// # Errors
    /// [`SeatsError`]: too many of them, or a node twice.
    pub fn new(seats: Vec<Seat>) -> Result<Self, SeatsError> {
        Self::from_parts(seats, Vec::new())
    }

    /// Slots, and which of them are vacant.
    ///
    /// # Errors
    /// [`SeatsError`]: too many slots, a node in two seats, a vacant slot that does not exist or is named twice.
    pub fn from_parts(seats: Vec<Seat>, vacant: Vec<u32>) -> Result<Self, SeatsError> {
        if seats.len() > MAX_SEATS {
            return Err(SeatsError::TooMany { count: seats.len() });
        }
        let mut away = HashSet::new();
        for slot in &vacant {
            if to_usize(*slot) >= seats.len() || !away.insert(*slot) {
                return Err(SeatsError::Vacant { slot: *slot });
            }
        }
        let mut ids = HashSet::new();
        for (slot, seat) in seats.iter().enumerate() {
            if !away.contains(&to_u32(slot)) && !ids.insert(&seat.id) {
                return Err(SeatsError::Twice { id: seat.id.clone() });
            }
        }
        Ok(Self { seats, vacant })
    }

    /// All slots with the seats in them, vacant ones too.
    #[must_use]
    pub fn slots(&self) -> &[Seat] {
        &self.seats
    }

    /// The vacant slots in the order in which they were vacated.
    #[must_use]
    pub fn vacant(&self) -> &[u32] {
        &self.vacant
    }

    /// Slots and seats that are taken, by slot.
    pub fn taken(&self) -> impl Iterator<Item = (u32, &Seat)> {
        let vacant: HashSet<u32> = self.vacant.iter().copied().collect();
        let slots = self.seats.iter().enumerate().map(|(slot, seat)| (to_u32(slot), seat));
        slots.filter(move |(slot, _)| !vacant.contains(slot))
    }

    /// How many seats are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len() - self.vacant.len()
    }

    /// Whether no seat is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of a node that has a seat.
    #[must_use]
    pub fn slot_of(&self, id: &NodeId) -> Option<u32> {
        self.taken().find(|(_, seat)| seat.id == *id).map(|(slot, _)| slot)
    }

    /// Gives a node a seat, or its seat another weight. Says in which slot.
    ///
    /// # Errors
    /// [`SeatsError::TooMany`].
    pub fn join(&mut self, seat: Seat) -> Result<u32, SeatsError> {
        if let Some(slot) = self.slot_of(&seat.id) {
            self.seats[to_usize(slot)] = seat;
            return Ok(slot);
        }
        let own = self
            .vacant
            .iter()
            .position(|slot| self.seats[to_usize(*slot)].id == seat.id);
        let place = own.or(self.vacant.len().checked_sub(1));
        if let Some(place) = place {
            let slot = self.vacant.remove(place);
            self.seats[to_usize(slot)] = seat;
            return Ok(slot);
        }
        if self.seats.len() >= MAX_SEATS {
            return Err(SeatsError::TooMany { count: MAX_SEATS + 1 });
        }
        self.seats.push(seat);
        Ok(to_u32(self.seats.len() - 1))
    }

    /// Takes a node's seat away. Says whether it had one.
    pub fn leave(&mut self, id: &NodeId) -> bool {
        let Some(slot) = self.slot_of(id) else { return false };
        let is_last = to_usize(slot) + 1 == self.seats.len();
        if is_last && self.vacant.is_empty() {
            self.seats.pop();
        } else if self.len() == 1 {
            self.seats.clear();
            self.vacant.clear();
        } else {
            self.vacant.push(slot);
        }
        true
    }
}

/// What is wrong with seats.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeatsError {
    /// A text is no node's id.
    #[error("a node's id must be 1 to {MAX_NODE_ID_BYTES} ASCII letters, digits and '-'")]
    NodeId,
    /// There are more slots than [`MAX_SEATS`].
    #[error("{count} seats are too many: the limit is {MAX_SEATS}")]
    TooMany {
        /// How many there are, or would be.
        count: usize,
    },
    /// A node has two seats.
    #[error("node {id} has two seats")]
    Twice {
        /// The node.
        id: NodeId,
    },
    /// A vacant slot does not exist, or is named twice.
    #[error("vacant slot {slot} does not exist or is named twice")]
    Vacant {
        /// The slot.
        slot: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(id: &str) -> Seat {
        let id = id.parse().unwrap();
        Seat { id, weight: 1 }
    }

    fn names(seats: &Seats) -> Vec<(u32, &str)> {
        seats.taken().map(|(slot, seat)| (slot, seat.id.as_str())).collect()
    }

    #[test]
    fn who_joins_takes_what_was_vacated_last_or_its_own() {
        let mut seats = Seats::new(["a", "b", "c", "d"].map(seat).to_vec()).unwrap();
        assert!(seats.leave(&seat("b").id) && seats.leave(&seat("a").id));
        assert!(!seats.leave(&seat("a").id));
        assert_eq!((seats.vacant(), seats.len()), (&[1, 0][..], 2));
        assert_eq!(seats.clone().join(seat("x")), Ok(0));
        assert_eq!(seats.join(seat("b")), Ok(1));
        assert_eq!(seats.join(seat("x")), Ok(0));
        assert_eq!(seats.join(seat("y")), Ok(4));
        assert_eq!(seats.join(Seat { weight: 7, ..seat("y") }), Ok(4));
        assert_eq!(names(&seats), [(0, "x"), (1, "b"), (2, "c"), (3, "d"), (4, "y")]);
    }

    #[test]
    fn the_last_slot_is_dropped_when_nothing_else_is_vacant() {
        let mut seats = Seats::new(["a", "b"].map(seat).to_vec()).unwrap();
        seats.leave(&seat("b").id);
        assert_eq!(seats.slots().len(), 1);
        seats.leave(&seat("a").id);
        assert_eq!(seats, Seats::default());
    }

    #[test]
    fn json_is_checked() {
        let text = r#"{"seats":[{"id":"a","weight":1},{"id":"b","weight":2}],"vacant":[0]}"#;
        let seats: Seats = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&seats).unwrap(), text);
        for wrong in [
            r#"{"seats":[{"id":"a","weight":1}],"vacant":[1]}"#,
            r#"{"seats":[{"id":"a","weight":1},{"id":"a","weight":1}]}"#,
            r#"{"seats":[{"id":"a b","weight":1}]}"#,
            r#"{"seats":[{"id":"a","weight":-1}]}"#,
            r#"{"seats":[],"x":1}"#,
        ] {
            assert!(serde_json::from_str::<Seats>(wrong).is_err(), "{wrong}");
        }
    }
}

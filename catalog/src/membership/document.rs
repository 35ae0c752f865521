//! The placement document: the seats of the present epoch, and enough to tell those of a few before it.
//!
//! Earlier epochs are kept as what must be changed in the next later one to get back to them, since epochs differ
//! by few seats and ten thousand seats are most of a megabyte.

use serde::{Deserialize, Serialize};

use super::record::RecordError;
use crate::meta::MAX_VALUE_BYTES;
use crate::placement::{MAX_SEATS, Placement, Seat, Seats};

/// How many earlier epochs are kept.
pub const MAX_PREVIOUS_EPOCHS: usize = 4;

/// The document under [`super::PLACEMENT_KEY`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The number of the epoch; 0 when there has been none.
    pub epoch: u64,
    /// Its seats.
    pub placement: Seats,
    /// Earlier epochs, the latest first.
    #[serde(default)]
    previous: Vec<Past>,
}

/// An earlier epoch, as the difference from the one after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    epoch: u64,
    /// How many slots there were.
    slots: usize,
    /// Slots whose seats were others.
    changed: Vec<(usize, Seat)>,
    vacant: Vec<u32>,
}

impl Past {
    fn of(epoch: u64, old: &Seats, new: &Seats) -> Self {
        let differs = |(slot, seat): &(usize, &Seat)| new.slots().get(*slot) != Some(*seat);
        let changed = old.slots().iter().enumerate().filter(differs);
        Self {
            epoch,
            slots: old.slots().len(),
            changed: changed.map(|(slot, seat)| (slot, seat.clone())).collect(),
            vacant: old.vacant().to_vec(),
        }
    }

    fn seats(&self, later: &Seats) -> Option<Seats> {
        if self.slots > MAX_SEATS {
            return None;
        }
        let mut slots: Vec<Option<Seat>> = later.slots().iter().cloned().map(Some).collect();
        slots.resize(self.slots, None);
        for (slot, seat) in &self.changed {
            *slots.get_mut(*slot)? = Some(seat.clone());
        }
        let slots = slots.into_iter().collect::<Option<Vec<_>>>()?;
        Seats::from_parts(slots, self.vacant.clone()).ok()
    }
}

impl Document {
    /// The document of a next epoch, which remembers this one.
    #[must_use]
    pub fn next(&self, seats: Seats) -> Self {
        let mut previous = vec![Past::of(self.epoch, &self.placement, &seats)];
        previous.extend(self.previous.iter().take(MAX_PREVIOUS_EPOCHS - 1).cloned());
        if self.epoch == 0 {
            previous.clear();
        }
        Self {
            epoch: self.epoch + 1,
            placement: seats,
            previous,
        }
    }

    /// The placements of the earlier epochs, the latest first.
    #[must_use]
    pub fn earlier(&self) -> Vec<Placement> {
        let mut found: Vec<Placement> = Vec::with_capacity(self.previous.len());
        for past in &self.previous {
            let later = found.last().map_or(&self.placement, Placement::seats);
            let Some(seats) = past.seats(later) else { break };
            found.push(Placement::new(past.epoch, seats));
        }
        found
    }

    /// The document in JSON. The earliest epochs are left out where it would be too long with them.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] when it is too long even so.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut document = self.clone();
        loop {
            let bytes = serde_json::to_vec(&document)?;
            if bytes.len() <= MAX_VALUE_BYTES {
                return Ok(bytes);
            }
            if document.previous.pop().is_none() {
                return Err(RecordError::TooLong { bytes: bytes.len() });
            }
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`RecordError`]: it is no such document, too long, or its epochs do not fit each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_VALUE_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        let mut document: Self = serde_json::from_slice(bytes)?;
        document.previous.truncate(MAX_PREVIOUS_EPOCHS);
        let earlier = document.earlier();
        let mut epoch = document.epoch;
        for (place, past) in document.previous.iter().enumerate() {
            if place >= earlier.len() || past.epoch >= epoch {
                return Err(RecordError::Past { epoch: past.epoch });
            }
            epoch = past.epoch;
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(number: usize, weight: u64) -> Seat {
        let id = format!("{number:036}").parse().unwrap();
        Seat { id, weight }
    }

    #[test]
    fn earlier_epochs_are_told_as_they_were() {
        let mut document = Document::default();
        let mut seats = Seats::default();
        let mut history = Vec::new();
        for step in 0..40 {
            if step % 3 == 2 {
                let id = seats.taken().nth(step % seats.len()).unwrap().1.id.clone();
                seats.leave(&id);
            } else {
                seats.join(seat(step, 1)).unwrap();
            }
            document = document.next(seats.clone());
            let read = Document::decode(&document.encode().unwrap()).unwrap();
            assert_eq!(read, document);
            history.insert(0, (document.epoch, seats.clone()));
            let earlier: Vec<_> = read
                .earlier()
                .iter()
                .map(|past| (past.epoch(), past.seats().clone()))
                .collect();
            assert_eq!(
                earlier,
                history[1..]
                    .iter()
                    .take(MAX_PREVIOUS_EPOCHS)
                    .cloned()
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn the_most_seats_fit_a_value() {
        let all = (0..MAX_SEATS).map(|number| seat(number, u64::MAX)).collect();
        let one = Document::default().next(Seats::new(all).unwrap());
        let two = one.next(Seats::new((0..MAX_SEATS).map(|number| seat(number, u64::MAX - 1)).collect()).unwrap());
        let bytes = two.encode().unwrap();
        assert!(bytes.len() <= MAX_VALUE_BYTES, "{}", bytes.len());
        assert_eq!(Document::decode(&bytes).unwrap().earlier().len(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for wrong in [
            r#"{"epoch":2,"placement":{"seats":[]},"previous":[{"epoch":2,"slots":0,"changed":[],"vacant":[]}]}"#,
            r#"{"epoch":2,"placement":{"seats":[]},"previous":[{"epoch":1,"slots":1,"changed":[],"vacant":[]}]}"#,
            r#"{"epoch":2,"placement":{"seats":[]},"leader":1}"#,
            "[]",
        ] {
            assert!(Document::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

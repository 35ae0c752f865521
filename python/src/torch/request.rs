//! What Python asks a reader of an epoch for, as JSON.

use std::collections::HashMap;

use serde::Deserialize;

use super::column::Handing;
use super::course::Plan;
use super::fill::{Nulls, Value};
use super::order::How;
use super::share::{Even, Pace, Taken};

/// Where nothing is shuffled, so many bytes are read together, about.
const GROUP_BYTES: u64 = 16 << 20;

/// One reader's part of an epoch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// The scan.
    #[serde(default)]
    pub(super) scan: Scan,
    /// Paths of the files, relative to the dataset.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// The units: file, row group, rows, bytes.
    pub(super) units: Vec<(u32, u32, u64, u64)>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    epoch: u64,
    /// Units of a clump; none where nothing is shuffled.
    #[serde(default)]
    shuffle_buffer: Option<usize>,
    /// Ranks, rows of a batch and steps of what was handed out.
    #[serde(default)]
    before: Vec<(u64, u64, u64)>,
    world: u64,
    rank: u64,
    batch_size: u64,
    even: String,
    drop_last: bool,
    /// Which of the rank's readers this is, and of how many.
    #[serde(default)]
    worker: u64,
    #[serde(default = "one")]
    workers: u64,
    /// Steps that a reader makes before it is the next one's turn.
    #[serde(default = "one")]
    run: u64,
    /// This reader's steps that were handed out.
    #[serde(default)]
    pub(super) skip: u64,
    /// Whether numbers may be handed over where they lie, which nobody may write to then.
    #[serde(default)]
    in_place: bool,
    #[serde(default)]
    nulls: String,
    #[serde(default)]
    fill: HashMap<String, Number>,
    /// Whether each unit is to be read alone, where nothing is shuffled.
    #[serde(default)]
    alone: bool,
    /// Bytes of row groups that are held or on their way, about; those of one batch, and the two that are needed next, are in any
    /// case.
    #[serde(default)]
    pub(super) ahead_bytes: u64,
    /// Batches that are made ahead.
    #[serde(default = "one_batch")]
    pub(super) ahead_batches: usize,
}

/// The scan that the units belong to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scan {
    pub(super) path: String,
    pub(super) columns: Option<Vec<String>>,
    pub(super) filter: Option<String>,
    pub(super) snapshot: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Number {
    Flag(bool),
    Whole(i64),
    Float(f64),
    Word(Word),
}

/// Numbers that JSON has none for, as Python writes them.
#[derive(Debug, Clone, Copy, Deserialize)]
enum Word {
    #[serde(rename = "nan")]
    Nan,
    #[serde(rename = "inf")]
    Infinity,
    #[serde(rename = "-inf")]
    NegativeInfinity,
}

fn one() -> u64 {
    1
}

fn one_batch() -> usize {
    1
}

impl Request {
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let request: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if request.world == 0 || request.rank >= request.world {
            return Err(format!("rank {} of {} does not exist", request.rank, request.world));
        }
        if request.batch_size == 0 || request.workers == 0 || request.worker >= request.workers || request.run == 0 {
            let rules = "a batch has one row or more, a run one step or more, and a worker's number is below that of the workers";
            return Err(rules.to_owned());
        }
        Ok(request)
    }

    pub(super) fn plan(&self) -> Result<Plan, String> {
        let taken = self.before.iter().map(|&(world, batch_size, steps)| Taken {
            world,
            batch_size,
            steps,
        });
        Ok(Plan {
            unit_rows: self.units.iter().map(|&(_, _, rows, _)| rows).collect(),
            how: match self.shuffle_buffer {
                Some(buffer) => How::Shuffled {
                    seed: self.seed,
                    epoch: self.epoch,
                    buffer,
                },
                None => How::Plain { clumps: self.groups() },
            },
            before: taken.collect(),
            pace: Pace {
                world: self.world,
                batch_size: self.batch_size,
                even: even(&self.even)?,
                drop_last: self.drop_last,
            },
            rank: self.rank,
            reader: self.worker,
            readers: self.workers,
            run: self.run,
        })
    }

    pub(super) fn handing(&self) -> Result<Handing, String> {
        Ok(Handing {
            nulls: self.nulls()?,
            copies: !self.in_place,
        })
    }

    fn nulls(&self) -> Result<Nulls, String> {
        let values = self.fill.iter().map(|(column, number)| {
            let value = match *number {
                Number::Flag(flag) => Value::Whole(i64::from(flag)),
                Number::Whole(number) => Value::Whole(number),
                Number::Float(number) => Value::Float(number),
                Number::Word(Word::Nan) => Value::Float(f64::NAN),
                Number::Word(Word::Infinity) => Value::Float(f64::INFINITY),
                Number::Word(Word::NegativeInfinity) => Value::Float(f64::NEG_INFINITY),
            };
            (column.clone(), value)
        });
        match self.nulls.as_str() {
            "" | "error" => Ok(Nulls::Refuse),
            "fill" | "mask" => Ok(Nulls::Fill {
                values: values.collect(),
                mask: self.nulls == "mask",
            }),
            other => Err(format!("nulls must be \"error\", \"fill\" or \"mask\", not {other:?}")),
        }
    }

    /// How many units that follow each other are read together.
    fn groups(&self) -> Vec<usize> {
        let (mut groups, mut bytes) = (Vec::new(), 0u64);
        for &(_, _, _, unit_bytes) in &self.units {
            match groups.last_mut() {
                Some(size) if !self.alone && bytes.saturating_add(unit_bytes) <= GROUP_BYTES => *size += 1,
                _ => {
                    groups.push(1);
                    bytes = 0;
                }
            }
            bytes = bytes.saturating_add(unit_bytes);
        }
        groups
    }
}

fn even(word: &str) -> Result<Even, String> {
    match word {
        "drop" => Ok(Even::Drop),
        "pad" => Ok(Even::Pad),
        "error" => Ok(Even::Refuse),
        other => Err(format!("even must be \"drop\", \"pad\" or \"error\", not {other:?}")),
    }
}

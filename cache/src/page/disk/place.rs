//! Which folder a new file goes to: weighted rendezvous hashing, so that most files stay where they are when a folder
//! is added, taken away or resized. A file that is held is read where it lies, whatever this says.

use xxhash_rust::xxh3::xxh3_64;

use crate::key::FileId;

/// A folder that takes files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) folder: usize,
    pub(super) uuid: [u8; 16],
    pub(super) capacity_bytes: u64,
}

/// The folder for a file: each wins in proportion to its capacity. One without capacity never does.
pub(super) fn choose(file: FileId, candidates: &[Candidate]) -> Option<usize> {
    candidates
        .iter()
        .filter(|candidate| candidate.capacity_bytes > 0)
        .min_by(|a, b| cost(file, a).total_cmp(&cost(file, b)))
        .map(|candidate| candidate.folder)
}

/// An exponentially distributed number with the capacity as its rate: the least of several is that of folder i with the
/// probability of its part of all capacity.
fn cost(file: FileId, candidate: &Candidate) -> f64 {
    let mut pair = [0; 32];
    pair[..16].copy_from_slice(&file.as_u128().to_be_bytes());
    pair[16..].copy_from_slice(&candidate.uuid);
    // 53 bits make a number in (0, 1] that a float holds exactly.
    let draw = ((xxh3_64(&pair) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -draw.ln() / candidate.capacity_bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(capacities: &[u64]) -> Vec<Candidate> {
        let of = |(folder, capacity_bytes): (usize, &u64)| Candidate {
            folder,
            uuid: [u8::try_from(folder).unwrap(); 16],
            capacity_bytes: *capacity_bytes,
        };
        capacities.iter().enumerate().map(of).collect()
    }

    #[test]
    fn folders_win_by_capacity_and_few_files_move() {
        let ids: Vec<_> = (0..40_000u128).map(FileId::from_u128).collect();
        let before = candidates(&[1 << 40, 2 << 40, 1 << 40, 0]);
        let mut wins = [0u32; 4];
        for id in &ids {
            wins[choose(*id, &before).unwrap()] += 1;
        }
        assert_eq!(wins[3], 0);
        for (won, expected) in wins.iter().zip([10_000, 20_000, 10_000]) {
            assert!(won.abs_diff(expected) < 500, "{wins:?}");
        }
        for id in &ids {
            let was = choose(*id, &before).unwrap();
            let is = choose(*id, &before[..2]).unwrap();
            assert!(was == 2 || was == is);
        }
        assert_eq!(choose(ids[0], &[]), None);
    }
}

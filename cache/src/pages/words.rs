//! How long the words of a dictionary are.

/// Bytes of the longest word of a dictionary page, as it lies unpacked: each word behind its length, in 32 bits. What is
/// not such a list counts as far as it is one; the decoder says what is wrong with it.
pub(super) fn longest_word(mut page: &[u8]) -> u64 {
    let mut longest = 0;
    while let Some((length, rest)) = page.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let Some(after) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else {
            break;
        };
        longest = longest.max(u64::from(length));
        page = after;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(words: &[&[u8]]) -> Vec<u8> {
        let word = |word: &&[u8]| [&u32::try_from(word.len()).unwrap().to_le_bytes(), *word].concat();
        words.iter().flat_map(word).collect()
    }

    #[test]
    fn the_longest_counts_and_damage_ends_the_list() {
        assert_eq!(longest_word(&[]), 0);
        assert_eq!(longest_word(&page(&[b"a", b"", b"four", b"abc"])), 4);
        let mut cut = page(&[b"a", b"a long word"]);
        cut.pop();
        assert_eq!(longest_word(&cut), 1);
        assert_eq!(longest_word(&[1, 0]), 0);
    }
}

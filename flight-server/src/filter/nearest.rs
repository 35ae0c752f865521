//! The name that was probably meant, for messages about unknown columns, keys and functions.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// The candidate nearest to `name`: one that differs in case only, else the one with the fewest edits, if these are few.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let most_edits = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(edits, _)| *edits <= most_edits)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn case_comes_before_edits() {
        assert_eq!(nearest("L_TAX", ["l_tab", "l_tax"].into_iter()), Some("l_tax"));
    }

    #[test]
    fn a_slip_is_found_and_another_word_is_not() {
        assert_eq!(nearest("colums", ["columns", "filter"].into_iter()), Some("columns"));
        assert_eq!(nearest("zebra", ["columns", "filter"].into_iter()), None);
        assert_eq!(nearest("x", std::iter::empty()), None);
    }
}

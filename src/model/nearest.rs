//! Names the known word that a mistyped one was most likely meant to be.

/// How alike two words must be (Jaro-Winkler, 0 to 1) for one to be offered for the other.
const ALIKE: f64 = 0.75;

/// The known word most like `word`, where one is alike at all.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The end of an error's sentence: `; did you mean "…"?`, or nothing.
pub(crate) fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_nonsense_is_not() {
        let known = ["echo_interval", "seal", "vers"];
        assert_eq!(nearest("echo_intervall", known), Some("echo_interval"));
        assert_eq!(nearest("ver", known), Some("vers"));
        assert_eq!(nearest("qqq", known), None);
        assert_eq!(nearest("x", []), None);
    }
}

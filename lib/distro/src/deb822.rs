//! Paragraphs of `Field: value` (deb822(5)): apt's sources, its Release files and what it prints.

/// One paragraph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paragraph(Vec<(String, String)>);

impl Paragraph {
    /// A field's value; further lines are joined by spaces. Names are compared without case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name));
        found
            .map(|(_, value)| &**value)
            .filter(|value| !value.is_empty())
    }
}

/// All paragraphs of a text. Lines that are neither field, continuation nor comment are skipped:
/// a signed Release file has some.
pub(crate) fn parse(text: &str) -> Vec<Paragraph> {
    let mut paragraphs = vec![Paragraph::default()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields = match paragraphs.last_mut() {
            Some(last) => &mut last.0,
            None => continue,
        };
        if line.trim().is_empty() {
            if !fields.is_empty() {
                paragraphs.push(Paragraph::default());
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    paragraphs.retain(|paragraph| !paragraph.0.is_empty());
    paragraphs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_read() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nA: 1\n# no\nb:two\n  three\n\n\nA: 2\n";
        let paragraphs = parse(text);
        assert_eq!(paragraphs.len(), 3);
        assert_eq!(paragraphs[1].get("a"), Some("1"));
        assert_eq!(paragraphs[1].get("B"), Some("two three"));
        assert_eq!(paragraphs[2].get("A"), Some("2"));
        assert_eq!(paragraphs[2].get("b"), None);
        assert!(parse("").is_empty());
    }
}

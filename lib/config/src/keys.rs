//! Every key, for look-up by name, for the environment and for people.

use lib_model::nearest;

/// How a key's value is written in a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Text,
    /// A number.
    Integer,
    /// Words between commas.
    List,
    /// `name=word`, between commas; a name may come again.
    Map,
}

/// Key and shape.
pub(crate) const KEYS: &[(&str, Shape)] = &[
    ("default.image", Shape::Text),
    ("default.kernel", Shape::Text),
    ("vm.cpus", Shape::Integer),
    ("vm.memory", Shape::Text),
    ("vm.disk", Shape::Text),
    ("vm.network", Shape::Text),
    ("vm.accel", Shape::Text),
    ("vm.authorized-keys", Shape::List),
    ("vm.file-sync", Shape::List),
    ("vm.mount-roots", Shape::List),
    ("vm.proxy", Shape::Text),
    ("registry.mirrors", Shape::Map),
    ("registry.plain-http", Shape::List),
    ("registry.ca-files", Shape::List),
    ("registry.credential-files", Shape::List),
    ("limits.download", Shape::Text),
    ("limits.unpacked", Shape::Text),
    ("limits.entries", Shape::Integer),
    ("limits.ratio", Shape::Integer),
];

/// What a dotted name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Key(Shape),
    Section,
    Unknown(Option<&'static str>),
}

pub(crate) fn kind(name: &str) -> Kind {
    if let Some((_, shape)) = KEYS.iter().find(|(key, _)| *key == name) {
        return Kind::Key(*shape);
    }
    let section = |key: &str| {
        key.split_once('.')
            .map_or("", |(section, _)| section)
            .to_owned()
    };
    if KEYS.iter().any(|(key, _)| section(key) == name) {
        return Kind::Section;
    }
    // A mistyped section is compared with sections, which are short words.
    let found = match name.split_once('.') {
        Some(_) => nearest(name, KEYS.iter().map(|(key, _)| *key)),
        None => nearest(
            name,
            KEYS.iter()
                .map(|(key, _)| key.split_once('.').map_or(*key, |(section, _)| section)),
        ),
    };
    Kind::Unknown(found)
}

/// `BANGER_VM_CPUS` for `vm.cpus`.
pub(crate) fn variable(key: &str) -> String {
    let mut name = String::from("BANGER_");
    name.extend(key.chars().map(|c| match c {
        '.' | '-' => '_',
        c => c.to_ascii_uppercase(),
    }));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_keys_sections_or_slips() {
        assert_eq!(kind("vm.cpus"), Kind::Key(Shape::Integer));
        assert_eq!(kind("vm"), Kind::Section);
        assert_eq!(kind("vm.cpu"), Kind::Unknown(Some("vm.cpus")));
        assert_eq!(kind("registy"), Kind::Unknown(Some("registry")));
        assert_eq!(kind("colour.of.all"), Kind::Unknown(None));
        assert_eq!(
            variable("registry.plain-http"),
            "BANGER_REGISTRY_PLAIN_HTTP"
        );
    }
}

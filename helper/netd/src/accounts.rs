//! Names of users and groups, from the files: this program is static and loads no modules of NSS.

use std::fs;

/// The number of a group, by name or number.
///
/// # Errors
/// No such group.
pub(crate) fn group(name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups =
        fs::read_to_string("/etc/group").map_err(|error| format!("/etc/group: {error}"))?;
    number(&groups, name).ok_or_else(|| format!("/etc/group has no group {name}"))
}

/// The third field of the line of `name` (group(5)).
fn number(groups: &str, name: &str) -> Option<u32> {
    groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| match fields[..] {
            [first, _, number, ..] if first == name => number.parse().ok(),
            _ => None,
        })
}

/// A user's name as a DNS label, or `u<uid>` when it has none that is.
pub(crate) fn label(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    label_in(&users, uid)
}

/// The first field of the line of `uid` (passwd(5)).
fn label_in(users: &str, uid: u32) -> String {
    let name = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| match fields[..] {
            [name, _, number, ..] if number.parse() == Ok(uid) => Some(name),
            _ => None,
        });
    // The rule of a VM's name is that of a label.
    name.and_then(|name| banger_proto::VmName::try_from(name).ok())
        .map_or_else(|| format!("u{uid}"), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_labels_become_numbers() {
        let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/\nb.ob:x:1001:1::/:/\nbad\n";
        let labels = [0, 1000, 1001, 5].map(|uid| label_in(users, uid));
        assert_eq!(labels, ["root", "ann", "u1001", "u5"]);
        assert_eq!(
            number("x\nroot:x:0:\nbanger:x:990:a,b\n", "banger"),
            Some(990)
        );
    }
}

//! Users and groups from the image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//!
//! Never through NSS: a static binary would load the guest's libraries.

use std::collections::HashMap;
use std::path::Path;

use crate::image_file;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, without `gid`.
    pub(crate) groups: Vec<u32>,
    /// `USER` and `LOGNAME`; missing for a uid that no line names.
    pub(crate) name: Option<String>,
    /// `HOME`.
    pub(crate) home: String,
    /// The login shell.
    pub(crate) shell: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// Reads the image's files and resolves `user[:group]`, each a name or a number.
///
/// # Errors
/// A message for people: no such user or group.
pub(crate) fn find(specification: &str) -> Result<Account, String> {
    let passwd = image_file::read(Path::new("/etc/passwd")).unwrap_or_default();
    let group = image_file::read(Path::new("/etc/group")).unwrap_or_default();
    resolve(specification, &passwd, &group)
}

/// All names by number: users, then groups; the first line of a number counts.
pub(crate) fn names() -> (HashMap<u32, String>, HashMap<u32, String>) {
    let passwd = image_file::read(Path::new("/etc/passwd")).unwrap_or_default();
    let group = image_file::read(Path::new("/etc/group")).unwrap_or_default();
    let (mut users, mut groups) = (HashMap::new(), HashMap::new());
    for line in passwd_lines(&passwd) {
        users
            .entry(line.uid)
            .or_insert_with(|| line.name.to_owned());
    }
    for (name, gid, _) in group_lines(&group) {
        groups.entry(gid).or_insert_with(|| name.to_owned());
    }
    (users, groups)
}

fn resolve(specification: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (user, wanted_group) = match specification.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (specification, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name wins over a number, as in chown(1).
    let line = passwd_lines(passwd)
        .find(|line| line.name == user)
        .or_else(|| {
            let uid: u32 = user.parse().ok()?;
            passwd_lines(passwd).find(|line| line.uid == uid)
        });
    let mut account = match (line, user.parse()) {
        (Some(line), _) => Account {
            uid: line.uid,
            gid: line.gid,
            groups: supplementary(group, line.name, line.gid),
            name: Some(line.name.to_owned()),
            home: or(line.home, "/"),
            shell: or(line.shell, "/bin/sh"),
        },
        (None, Ok(uid)) => unnamed(uid),
        (None, Err(_)) if user == "root" => unnamed(0),
        (None, Err(_)) => return Err(format!("no such user in the guest: {user}")),
    };
    if let Some(wanted) = wanted_group.filter(|g| !g.is_empty()) {
        account.gid = group_lines(group)
            .find(|(name, ..)| *name == wanted)
            .map(|(_, gid, _)| gid)
            .or_else(|| wanted.parse().ok())
            .ok_or_else(|| format!("no such group in the guest: {wanted}"))?;
        // As with docker: a chosen group replaces the user's own.
        account.groups.clear();
    }
    Ok(account)
}

fn unnamed(uid: u32) -> Account {
    Account {
        uid,
        gid: 0,
        groups: Vec::new(),
        name: (uid == 0).then(|| "root".to_owned()),
        home: if uid == 0 { "/root" } else { "/" }.to_owned(),
        shell: "/bin/sh".to_owned(),
    }
}

fn or(value: &str, default: &str) -> String {
    if value.is_empty() { default } else { value }.to_owned()
}

fn passwd_lines(text: &str) -> impl Iterator<Item = PasswdLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        Some(PasswdLine {
            name,
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: {
                let _gecos = fields.next();
                fields.next().unwrap_or_default()
            },
            shell: fields.next().unwrap_or_default(),
        })
    })
}

fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn supplementary(group: &str, user: &str, primary: u32) -> Vec<u32> {
    /// NGROUPS_MAX of Linux.
    const LIMIT: usize = 65_536;
    let mut groups: Vec<u32> = group_lines(group)
        .filter(|(_, gid, members)| *gid != primary && members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .take(LIMIT)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # a comment\n\
        broken:x:notanumber:0::/:\n\
        dev:x:1000:100:Dev,,,:/home/dev:/bin/zsh\n\
        42:x:7:7::/odd:/bin/odd\n\
        bare:x:1001:1001";
    const GROUP: &str = "root:x:0:\nusers:x:100:dev\nwheel:x:10:root,dev\nkvm:x:36:developer,dev\nwheel2:x:10:dev\nbad\n";

    fn account(uid: u32, gid: u32, groups: &[u32], name: &str, home: &str, shell: &str) -> Account {
        Account {
            uid,
            gid,
            groups: groups.to_vec(),
            name: (!name.is_empty()).then(|| name.to_owned()),
            home: home.to_owned(),
            shell: shell.to_owned(),
        }
    }

    #[test]
    fn specifications_resolve_like_dockers() {
        let root = account(0, 0, &[10], "root", "/root", "/bin/bash");
        let dev = account(1000, 100, &[10, 36], "dev", "/home/dev", "/bin/zsh");
        let cases = [
            ("", root.clone()),
            ("root", root.clone()),
            ("0", root),
            ("dev", dev.clone()),
            ("1000", dev.clone()),
            ("dev:", dev.clone()),
            (
                "dev:wheel",
                Account {
                    gid: 10,
                    groups: vec![],
                    ..dev.clone()
                },
            ),
            (
                "dev:55",
                Account {
                    gid: 55,
                    groups: vec![],
                    ..dev
                },
            ),
            ("42", account(7, 7, &[], "42", "/odd", "/bin/odd")),
            ("4242", account(4242, 0, &[], "", "/", "/bin/sh")),
            ("bare", account(1001, 1001, &[], "bare", "/", "/bin/sh")),
        ];
        for (specification, expected) in cases {
            assert_eq!(
                resolve(specification, PASSWD, GROUP),
                Ok(expected),
                "{specification:?}"
            );
        }
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        let cases = [
            ("nobody", "no such user in the guest: nobody"),
            ("broken", "no such user in the guest: broken"),
            ("dev:nogroup", "no such group in the guest: nogroup"),
            ("-1", "no such user in the guest: -1"),
        ];
        for (specification, message) in cases {
            assert_eq!(
                resolve(specification, PASSWD, GROUP),
                Err(message.to_owned())
            );
        }
    }

    #[test]
    fn an_image_without_passwd_has_root_and_numbers() {
        assert_eq!(
            resolve("root", "", ""),
            Ok(account(0, 0, &[], "root", "/root", "/bin/sh"))
        );
        assert!(resolve("dev", "", "").is_err());
    }
}

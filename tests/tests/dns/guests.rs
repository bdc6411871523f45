//! Real VMs on the bridge: reached by name, and resolving names.

use std::fs;

use banger_tests::{NameServer, Sandbox, eventually, resolving, skipped};

use super::{PATIENCE, asked, dnsmasq, host};

#[test]
fn guests_have_names_and_resolve_names() {
    if skipped("vm") || skipped("root") {
        return;
    }
    let sandbox = Sandbox::for_guests();
    let (netns, _netd) = host(&sandbox);
    fs::write(NameServer::resolv_conf(&sandbox), "nameserver 127.0.0.1\n").unwrap();
    let _world = dnsmasq(
        &sandbox,
        &netns,
        "127.0.0.1",
        "--host-record=a.world.test,192.0.2.7",
    );
    let server = NameServer::start(&sandbox, &netns);
    let create = "banger-vm create --quiet --memory 192M --network bridge";
    let one = sandbox
        .sh(&format!("{create} --nat --name one busybox"))
        .record();
    let address = one["address"].as_str().unwrap_or_default().to_owned();
    eventually("the VM has a name", PATIENCE, || {
        (asked(&sandbox, &netns, "one") == format!("NOERROR {address}")).then_some(())
    });

    // The host reaches it by name.
    let serve = "mkdir -p /www && echo it is one > /www/index.html && httpd -p 80 -h /www";
    sandbox
        .sh(&format!("banger-vm exec one -- sh -c '{serve}'"))
        .ok();
    let by_name = |line: &str| resolving(&sandbox, &netns, &[NameServer::HOST, "127.0.0.1"], line);
    let page = by_name("curl --silent --show-error --max-time 60 http://one.vm/");
    assert_eq!(page.ok(), "it is one\n");
    assert_eq!(
        by_name("curl --silent --max-time 60 http://ONE.root.vm/").ok(),
        "it is one\n"
    );
    sandbox.sh("banger-vm ssh-config --install").ok();
    let ssh = by_name("ssh -F home/.ssh/config -o BatchMode=yes one.vm hostname");
    assert_eq!(ssh.ok(), "one\n");

    // It resolves by the host: with nat the world, and of VMs itself.
    let guest = |name: &str| sandbox.sh(&format!("banger-vm exec one -- nslookup {name}"));
    let said = guest("a.world.test");
    assert!(said.ok().contains("192.0.2.7"), "{said}");
    assert!(guest("one.vm").ok().contains(&address));
    let own = guest(&address);
    assert!(own.ok().contains("one.vm"), "{own}");
    let two = sandbox.sh(&format!("{create} --name two busybox")).record();
    let other = two["address"].as_str().unwrap_or_default().to_owned();
    eventually("the other VM has a name", PATIENCE, || {
        (asked(&sandbox, &netns, "two") == format!("NOERROR {other}")).then_some(())
    });
    assert!(
        guest("two.vm").stdout.contains("NXDOMAIN"),
        "it cannot reach it either"
    );
    sandbox.sh("banger-net group set web one two").ok();
    eventually("its group's names are known to it", PATIENCE, || {
        guest("two.vm").stdout.contains(&other).then_some(())
    });
    let closed = sandbox.sh("banger-vm exec two -- nslookup a.world.test");
    assert!(
        closed.stdout.contains("REFUSED"),
        "nothing of it gets out: {closed}"
    );
    sandbox.sh("banger-net nat off one").ok();
    eventually(
        "a VM that may not go out asks nobody there",
        PATIENCE,
        || {
            guest("a.world.test")
                .stdout
                .contains("REFUSED")
                .then_some(())
        },
    );

    // The server dies, and comes back; a VM ends, however it does.
    server.kill();
    let _server = NameServer::start(&sandbox, &netns);
    assert_eq!(asked(&sandbox, &netns, "two"), format!("NOERROR {other}"));
    let ask = |name: &str| asked(&sandbox, &netns, name);
    sandbox.sh("banger-vm kill --quiet two").ok();
    eventually("the name goes with the VM", PATIENCE, || {
        (ask("two") == "NXDOMAIN").then_some(())
    });
    assert_eq!(ask("one"), format!("NOERROR {address}"));
    sandbox.sh("banger-vm stop --quiet one").ok();
    eventually("the name goes with the VM", PATIENCE, || {
        (ask("one") == "NXDOMAIN").then_some(())
    });
}

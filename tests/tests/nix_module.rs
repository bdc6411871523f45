//! `services.banger`, evaluated by a real Nix with nixpkgs' real module system and its real types of units
//! (tests/nix/module.nix); what it writes is given to systemd and to banger.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use banger_tests::{Nix, Outcome, Sandbox, skipped};
use serde_json::Value;

use crate::nix_flake::{copy_checkout, stub};

/// An evaluator of configurations.
struct Module<'a> {
    sandbox: &'a Sandbox,
    nix: Nix<'a>,
}

impl<'a> Module<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        copy_checkout(&sandbox.path("banger"));
        stub(sandbox);
        Module {
            sandbox,
            nix: Nix::new(sandbox),
        }
    }

    /// What the configurations come to, by name.
    fn evaluate(&self, system: &str, cases: &[(&str, &str)]) -> Outcome {
        let mut text = String::from("{\n");
        for (name, configuration) in cases {
            text += &format!("  {name} = {{ services.banger = {configuration}; }};\n");
        }
        text.push('}');
        let file = self.sandbox.path("cases.nix");
        fs::write(&file, text).expect("the sandbox can be written");
        let expression = format!(
            "import {}/tests/nix/module.nix {{ library = {}; stub = {}; banger = {}; cases = import {}; system = \"{system}\"; }}",
            self.sandbox.path("banger").display(),
            self.sandbox
                .fixtures()
                .nixpkgs_library()
                .canonicalize()
                .expect("it was made")
                .display(),
            self.sandbox.path("nixpkgs").display(),
            self.sandbox.path("banger").display(),
            file.display(),
        );
        self.nix
            .sh(&format!("nix eval --json --impure --expr '{expression}'"))
    }

    fn report(&self, cases: &[(&str, &str)]) -> Value {
        let outcome = self.evaluate("x86_64-linux", cases);
        serde_json::from_str(outcome.ok()).expect("nix prints JSON")
    }

    /// Builds the store path of a derivation that was evaluated; returns where it is on this machine.
    fn realised(&self, path: &Value) -> PathBuf {
        let path = path.as_str().expect("a path is text");
        // A plain evaluation leaves the derivation in the store.
        let find = format!(
            "for d in /nix/store/*.drv; do nix-store --query --outputs $d | grep -qx {path} && \
             exec nix-store --realise --quiet $d; done; exit 1"
        );
        self.nix.sh(&find).ok();
        self.nix.root().join(path.trim_start_matches("/nix/"))
    }

    /// As [`Module::realised`], of a file; returns its content.
    fn built(&self, path: &Value) -> String {
        fs::read_to_string(self.realised(path)).expect("the store can be read")
    }
}

const FULL: &str = r#"{
  enable = true;
  users = [ "ann" ];
  settings.vm.memory = "4G";
  settings.vm.mount-roots = [ "/srv" ];
  settings.registry.mirrors."docker.io" = [ "mirror.example:5000" ];
  networking.bridge = "vms0";
  networking.pool = "192.168.83.0/24";
  networking.openFirewall = true;
  reconcile.interval = "1d";
  vms.web = {
    image = "nginx:1";
    ports = [ "8080:80" "0.0.0.0:443:443" ];
    cpus = 2;
    memory = "512M";
    settings.idle-stop = "2h";
    autostart = false;
    workspace = "/srv/app";
  };
  vms.box.command = [ "sleep" "infinity" ];
}"#;

#[test]
fn what_no_type_can_say_is_said_by_assertions() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let module = Module::new(&sandbox);
    let cases = [
        (
            "label",
            r#"{ enable = true; vms."Bad_Name" = { }; }"#,
            vec!["services.banger.vms.\"Bad_Name\": the name of a VM is a DNS label"],
        ),
        (
            "hyphen",
            r#"{ enable = true; vms."-a" = { }; }"#,
            vec!["is a DNS label"],
        ),
        (
            "form",
            r#"{ enable = true; vms.a.ports = [ "80" "1:70000" ]; }"#,
            vec![
                "\"80\" is not of the form",
                "\"1:70000\" is not of the form",
            ],
        ),
        (
            "twice",
            r#"{ enable = true; vms.a.ports = [ "80:1" ]; vms.b.ports = [ "127.0.0.1:80:2" ]; }"#,
            vec!["a (\"80:1\") and b (\"127.0.0.1:80:2\") publish the\nsame address and port"],
        ),
        (
            "all",
            r#"{ enable = true; vms.a.ports = [ "0.0.0.0:80:1" ]; vms.b.ports = [ "80:2" ]; }"#,
            vec!["publish the"],
        ),
        (
            "others",
            r#"{ enable = true; vms.a.ports = [ "127.0.0.2:80:1" "0:1" ]; vms.b.ports = [ "80:2" "0:1" ]; }"#,
            vec![],
        ),
        (
            "bridge",
            r#"{ enable = true; networking.enable = false; vms.a.network = "bridge"; }"#,
            vec![
                "services.banger.vms.a.network is \"bridge\", but services.banger.networking.enable is false",
            ],
        ),
        (
            "every",
            r#"{ enable = true; networking.enable = false; settings.vm.network = "bridge"; }"#,
            vec!["services.banger.settings.vm.network is \"bridge\", but"],
        ),
        (
            "nat",
            r#"{ enable = true; vms.a = { network = "none"; settings.nat = true; }; }"#,
            vec!["has no network, so that `settings.nat` means nothing"],
        ),
        (
            "route",
            r#"{ enable = true; networking.dns.route = true; }"#,
            vec![
                "services.banger.networking.dns.route tells systemd-resolved, which is not enabled here",
            ],
        ),
        (
            "own",
            r#"{ enable = true; vms.a.settings.memory = "1G"; }"#,
            vec!["settings has what has options of its own: memory"],
        ),
        ("fine", FULL, vec![]),
        (
            "template",
            "(import ./banger/templates/vm/vm.nix).services.banger",
            vec![],
        ),
        ("off", r#"{ vms."Bad_Name" = { }; }"#, vec![]),
    ];
    let pairs: Vec<(&str, &str)> = cases.iter().map(|(name, text, _)| (*name, *text)).collect();
    let report = module.report(&pairs);
    for (name, _, expected) in &cases {
        let failed = report[name]["failed"].as_array().unwrap();
        assert_eq!(failed.len(), expected.len(), "{name}: {failed:#?}");
        for (message, part) in failed.iter().zip(expected) {
            assert!(
                message.as_str().unwrap().contains(part),
                "{name}: {message}"
            );
        }
    }
    let arm = module.evaluate(
        "aarch64-linux",
        &[
            ("arm", "{ enable = true; vms.a = { }; }"),
            ("none", "{ enable = true; }"),
        ],
    );
    let arm: Value = serde_json::from_str(arm.ok()).unwrap();
    assert!(
        arm["arm"]["failed"][0]
            .as_str()
            .unwrap()
            .contains("this system is aarch64-linux")
    );
    assert_eq!(arm["none"]["failed"], serde_json::json!([]));

    // What types say, with the option and the value.
    for (configuration, said) in [
        (
            "{ enable = true; vms.a.memroy = \"1G\"; }",
            "`services.banger.vms.a.memroy' does not exist",
        ),
        (
            "{ enable = true; vms.a.cpus = 0; }",
            "`services.banger.vms.a.cpus' is not of type",
        ),
        (
            "{ enable = true; vms.a.network = \"wifi\"; }",
            "`services.banger.vms.a.network' is not of type",
        ),
        (
            "{ enable = true; settings.vm.memory = \"much\"; }",
            "`services.banger.settings.vm.memory' is not of type",
        ),
        (
            "{ enable = true; networking.pool = \"10.0.0.0\"; }",
            "`services.banger.networking.pool' is not of type",
        ),
    ] {
        let refused = module.evaluate("x86_64-linux", &[("wrong", configuration)]);
        refused.exits(1).says(said);
    }
}

#[test]
fn what_it_writes_is_what_systemd_and_banger_take() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let module = Module::new(&sandbox);
    let report = module.report(&[
        ("full", FULL),
        ("slip", "{ enable = true; settings.vm.cpu = 3; }"),
        (
            "resolved",
            "{ enable = true; }; services.resolved = { enable = true; }",
        ),
    ]);
    let full = &report["full"];
    wired(&module, full, &report["resolved"]);
    assert_eq!(full["firewall"], serde_json::json!([443]));
    assert_eq!(
        full["groups"]["banger"]["members"],
        serde_json::json!(["ann"])
    );

    let config = module.built(&full["etc"]["banger/config.toml"]);
    let file = sandbox.path("config.toml");
    fs::write(&file, config).unwrap();
    let shown = sandbox.sh(&format!(
        "BANGER_CONFIG={} banger config show --toml",
        file.display()
    ));
    for line in [
        "memory = \"4G\"",
        "mirrors.\"docker.io\" = [\"mirror.example:5000\"]",
        "# cpus is not set",
    ] {
        assert!(shown.ok().contains(line), "{line} in {shown}");
    }
    let slip = report["slip"]["etc"]["banger/config.toml"]
        .as_str()
        .unwrap();
    let build = module.nix.sh(&format!(
        "for d in /nix/store/*-banger-config.toml.drv; do nix-store --query --outputs $d | grep -qx {slip} && exec nix-store --realise $d; done"
    ));
    build
        .exits(100)
        .says("there is no setting `vm.cpu`")
        .says("did you mean `vm.cpus`?");

    // What VMs are made of, as the command reads it.
    let web = sandbox.path("web.toml");
    fs::write(&web, module.built(&full["etc"]["banger/vms/web.toml"])).unwrap();
    let up = sandbox.sh(&format!("banger-vm --json up {}", web.display()));
    // There is no such image here, and no registry: everything before that was fine.
    up.says("nginx");
    assert_ne!(up.status, 2, "{up}");

    // Units of the package with the module's drop-ins, laid out as NixOS does.
    let units = sandbox.path("units");
    layout(&sandbox, full, &units);
    let names: BTreeMap<String, PathBuf> = fs::read_dir(&units)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    let web_drop_in =
        fs::read_to_string(units.join("banger-vm@web.service.d/overrides.conf")).unwrap();
    assert!(
        web_drop_in.contains("X-RestartIfChanged=false"),
        "{web_drop_in}"
    );
    assert!(web_drop_in.contains("X-Restart-Triggers="), "{web_drop_in}");
    let netd = fs::read_to_string(units.join("banger-netd.service.d/overrides.conf")).unwrap();
    assert!(
        netd.contains("'--bridge' 'vms0' '--pool' '192.168.83.0/24'"),
        "{netd}"
    );
    let guests =
        fs::read_to_string(units.join("banger-dns-guests.socket.d/overrides.conf")).unwrap();
    assert!(guests.contains("ListenStream=192.168.83.1:53"), "{guests}");
    let instances = names.keys().map(|name| name.replace("@.", "@web."));
    let list = instances.collect::<Vec<_>>().join(" ");
    let verified = sandbox.sh(&format!(
        "cd {} && SYSTEMD_UNIT_PATH={}: systemd-analyze verify --man=no {list}",
        units.display(),
        units.display()
    ));
    assert_eq!(
        (verified.ok(), verified.stderr.as_str()),
        ("", ""),
        "{verified}"
    );
    for (unit, threshold) in THRESHOLDS {
        let security = sandbox.sh(&format!(
            "cd {} && SYSTEMD_UNIT_PATH={}: systemd-analyze security --offline=true --threshold={threshold} {unit}",
            units.display(),
            units.display()
        ));
        security.ok();
    }
}

/// What is not in a file of its own.
fn wired(module: &Module<'_>, full: &Value, resolved: &Value) {
    let unit = |report: &Value, name: &str| -> (String, Value) {
        let unit = &report["units"][name];
        let text = unit["text"].as_str().expect("the unit is there");
        (text.to_owned(), unit["wantedBy"].clone())
    };
    // Who starts what.
    let wants = |report: &Value, name: &str| unit(report, name).1;
    assert_eq!(wants(full, "banger-vm@web.service"), serde_json::json!([]));
    assert_eq!(
        wants(full, "banger-vm@box.service"),
        serde_json::json!(["multi-user.target"])
    );
    for socket in ["banger-netd", "banger-dns", "banger-dns-guests"] {
        let wanted = wants(full, &format!("{socket}.socket"));
        assert_eq!(wanted, serde_json::json!(["sockets.target"]), "{socket}");
    }
    // The route only where somebody takes it.
    assert_eq!(
        full["units"]["banger-dns-route.service"],
        Value::Null,
        "{full:#}"
    );
    assert_eq!(
        wants(resolved, "banger-dns-route.service"),
        serde_json::json!(["multi-user.target"])
    );
    let (timer, wanted) = unit(full, "banger-reconcile.timer");
    assert!(
        timer.contains("OnUnitInactiveSec=\nOnUnitInactiveSec=1d\n"),
        "{timer}"
    );
    assert_eq!(wanted, serde_json::json!(["timers.target"]));
    let (web, _) = unit(full, "banger-vm@web.service");
    let prepare = web.lines().find(|line| line.starts_with("ExecStartPost=-"));
    let prepare = prepare.expect("the workspace is prepared");
    assert!(
        prepare.contains("/bin/banger-ws prepare --quiet web ") && prepare.contains("/srv/app"),
        "{prepare}"
    );
    let list = |key: &str| full[key].as_array().expect("a list").clone();
    for kernel_module in ["tun", "bridge", "nf_tables"] {
        assert!(list("modules").contains(&kernel_module.into()), "{full:#}");
    }
    for shell in ["bash-completion", "zsh", "fish"] {
        let link = format!("/share/{shell}");
        assert!(list("links").contains(&link.into()), "{full:#}");
    }
    // The machine's own VMs by hand: as their user, in their store.
    let script = module.realised(&list("programs")[1]);
    let script = fs::read_to_string(script.join("bin/banger-system")).expect("it is a script");
    for part in [
        "runuser --user banger -- ",
        "BANGER_STORE=/var/lib/banger/store BANGER_RUNTIME_DIR=/run/banger/vms",
        "/bin/banger \"$@\"",
    ] {
        assert!(script.contains(part), "{part} in {script}");
    }
}

/// As [`THRESHOLDS`], of the daemon that offers all.
const OFFERING: u32 = 42;

const OFFERS: &str = r#"{ enable = true; networking.offer = [ "disks" "jails" ]; }"#;

#[test]
fn the_daemon_does_more_than_the_network_only_where_it_is_said() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let module = Module::new(&sandbox);
    let refused = module.evaluate(
        "x86_64-linux",
        &[(
            "wrong",
            "{ enable = true; networking.offer = [ \"disk\" ]; }",
        )],
    );
    refused.exits(1).says("services.banger.networking.offer");

    let report = module.report(&[("full", FULL), ("offers", OFFERS)]);
    assert_eq!(packages(&report["full"]).len(), 1, "the package alone");
    let offers = &report["offers"];
    let modules = offers["modules"].as_array().unwrap();
    for name in ["loop", "dm_mod"] {
        assert!(modules.contains(&name.into()), "{modules:?}");
    }
    let [_, offered] = packages(offers)[..] else {
        panic!("{offers:#}");
    };
    let offered = module.realised(offered);
    // As NixOS joins the drop-ins of packages and its own (nixos/lib/systemd-lib.nix, generateUnits).
    let units = sandbox.path("offers");
    layout(&sandbox, offers, &units);
    let source = sandbox.path("banger/helper/netd/systemd");
    for name in ["disks.conf", "jails.conf"] {
        let drop_in = format!("banger-netd.service.d/{name}");
        let text = fs::read(offered.join("lib/systemd/system").join(&drop_in)).unwrap();
        assert_eq!(text, fs::read(source.join(name)).unwrap(), "{name}");
        fs::write(units.join(drop_in), text).unwrap();
    }
    let verified = sandbox.sh(&format!(
        "cd {} && SYSTEMD_UNIT_PATH={}: systemd-analyze verify --man=no banger-netd.service",
        units.display(),
        units.display()
    ));
    assert_eq!((verified.ok(), &*verified.stderr), ("", ""), "{verified}");
    // What systemd makes of them together, and of the command.
    let command = fs::read_to_string(units.join("banger-netd.service.d/overrides.conf")).unwrap();
    assert!(command.contains(" $DISKS $JAILS"), "{command}");
    let security = sandbox.sh(&format!(
        "cd {} && SYSTEMD_UNIT_PATH={}: systemd-analyze security --offline=true --threshold={OFFERING} \
         banger-netd.service",
        units.display(),
        units.display()
    ));
    security.ok();
    assert!(
        security
            .stdout
            .contains("✗ CapabilityBoundingSet=~CAP_SYS_ADMIN"),
        "{security}"
    );
}

/// What has units beside the module's own.
fn packages(report: &Value) -> Vec<&Value> {
    report["packages"]
        .as_array()
        .expect("a list of packages")
        .iter()
        .collect()
}

/// Ten times the exposure level that units may have; why each opening is needed is said in the unit.
const THRESHOLDS: [(&str, u32); 6] = [
    ("banger-dns.service", 30),
    ("banger-dns-route.service", 30),
    ("banger-netd.service", 20),
    ("banger-vm@web.service", 20),
    ("banger-reconcile.service", 10),
    ("banger-kernel.service", 30),
];

/// Any executable will do for the analysis, and those of the unit are elsewhere.
fn analysable(text: &str) -> String {
    text.lines()
        .map(|line| match line.split_once('=') {
            Some((key, value)) if key.starts_with("Exec") && value.contains('/') => {
                let rest = value.split_once(' ').map_or("", |(_, rest)| rest);
                format!("{key}=/bin/true {rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect()
}

/// The files of `systemd.packages` and, over them, the module's (nixos/lib/systemd-lib.nix, generateUnits).
fn layout(sandbox: &Sandbox, report: &Value, units: &Path) {
    fs::create_dir(units).expect("the sandbox can be written");
    let checkout = sandbox.path("banger");
    for folder in ["helper/netd/systemd", "bins/banger/systemd"] {
        for entry in fs::read_dir(checkout.join(folder)).expect("units are there") {
            let path = entry.expect("units can be listed").path();
            let kind = path.extension().and_then(|kind| kind.to_str());
            if !matches!(kind, Some("service" | "socket" | "timer")) {
                continue;
            }
            let text = fs::read_to_string(&path).expect("units are text");
            let text = analysable(&text);
            let name = path.file_name().expect("a file has a name");
            fs::write(units.join(name), text).expect("the sandbox can be written");
        }
    }
    for (name, unit) in report["units"].as_object().expect("units by name") {
        let text = unit["text"].as_str().expect("a unit is text");
        let text = analysable(text);
        let place = units.join(name);
        let place = if place.exists() || unit["overrideStrategy"] == "asDropin" {
            let drop_ins = units.join(format!("{name}.d"));
            fs::create_dir(&drop_ins).expect("the sandbox can be written");
            drop_ins.join("overrides.conf")
        } else {
            place
        };
        fs::write(place, text).expect("the sandbox can be written");
    }
}

#[test]
fn options_are_the_settings_of_banger_and_documented() {
    if skipped("root") {
        return;
    }
    let sandbox = Sandbox::empty();
    let module = Module::new(&sandbox);
    // As `nixos-option` sees them: type, description and an example or a default of each.
    let expression = format!(
        "with import {}/lib; map (option: {{ name = option.name; description = option.description or \"\"; \
         shown = option ? example || option ? default; }}) \
         (filter (option: hasPrefix \"services.banger\" option.name) (optionAttrSetToDocList (evalModules {{ modules = \
         [ {}/nixos-module {{ _module.check = false; }} ]; specialArgs.pkgs = import {}/pkgs.nix {{ lib = import {}/lib; \
         system = \"x86_64-linux\"; host = {{ }}; }}; }}).options))",
        sandbox.path("nixpkgs").display(),
        sandbox.path("banger").display(),
        sandbox.path("nixpkgs").display(),
        sandbox.path("nixpkgs").display(),
    );
    let listed = module
        .nix
        .sh(&format!("nix eval --json --impure --expr '{expression}'"));
    let listed: Value = serde_json::from_str(listed.ok()).unwrap();
    let mut settings = Vec::new();
    for option in listed.as_array().unwrap() {
        let name = option["name"].as_str().unwrap();
        if name.contains("_module.") {
            continue;
        }
        let described = option["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        assert!(described && option["shown"] == true, "{option}");
        settings.extend(
            name.strip_prefix("services.banger.settings.")
                .map(str::to_owned),
        );
    }
    settings.sort();
    let shown = sandbox.sh("BANGER_CONFIG= banger config show --json");
    let mut keys: Vec<String> = shown
        .records()
        .iter()
        .map(|record| record["key"].as_str().unwrap().to_owned())
        .collect();
    keys.sort();
    assert_eq!(settings, keys);
}

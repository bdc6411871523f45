//! The distribution's registry server on a free port of loopback.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Ends with this value.
pub(crate) struct Registry {
    child: Child,
    address: String,
    _data: TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Registry::with("")
    }

    /// `secret` is the password of the user `user`.
    pub(crate) fn with_password() -> (Self, TempDir) {
        let files = tempfile::tempdir().unwrap();
        let htpasswd = files.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let config = format!(
            "auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
            htpasswd.display()
        );
        (Registry::with(&config), files)
    }

    /// With TLS and the password too: the second value has `ca.crt` and `key`, `crt` of the server.
    pub(crate) fn with_tls() -> (Self, TempDir) {
        Registry::tls(false)
    }

    /// As [`Registry::with_tls`], for clients with a certificate only; the directory `client` has
    /// one that will do, as `me.cert` and `me.key`.
    pub(crate) fn with_client_certificates() -> (Self, TempDir) {
        Registry::tls(true)
    }

    fn tls(clients: bool) -> (Self, TempDir) {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).display().to_string();
        std::fs::write(path("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        std::fs::write(path("htpasswd"), HTPASSWD).unwrap();
        std::fs::create_dir(path("client")).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
        for line in [
            format!("req -x509 {key} -subj /CN=ca -keyout ca.key -out ca.crt"),
            format!("req -new {key} -subj /CN=registry -keyout key -out csr"),
            "x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out crt"
                .to_owned(),
            format!("req -new {key} -subj /CN=client -keyout client/me.key -out client.csr"),
            "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext \
             -out client/me.cert"
                .to_owned(),
        ] {
            let output = Command::new("/usr/bin/openssl")
                .args(line.split_whitespace())
                .current_dir(files.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{line}: {said}");
        }
        let tls = format!(
            ", tls: {{certificate: {}, key: {}{}}}",
            path("crt"),
            path("key"),
            match clients {
                true => format!(", clientcas: [{}]", path("ca.crt")),
                false => String::new(),
            }
        );
        let auth = format!(
            "auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
            path("htpasswd")
        );
        (Registry::configured(&auth, &tls), files)
    }

    fn with(more: &str) -> Self {
        Registry::configured(more, "")
    }

    fn configured(more: &str, http: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'{http}}}\n{more}",
            data.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        // Unpacked by `cargo xtask test`, which does not install it: that would start a service.
        let fixtures = std::env::var_os("BANGER_TEST_FIXTURES").map(std::path::PathBuf::from);
        let program = fixtures
            .map(|fixtures| fixtures.join("docker-registry/usr/bin/docker-registry"))
            .filter(|program| program.exists())
            .unwrap_or_else(|| "/usr/bin/docker-registry".into());
        let mut child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg("serve")
            .arg(&config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let start = said.len();
            assert!(
                log.read_line(&mut said).unwrap() > 0,
                "the registry ended: {said}"
            );
            if let Some((_, rest)) = said[start..].split_once("listening on ") {
                break rest.split(['"', ',', ' ']).next().unwrap().to_owned();
            }
        };
        // It stops when its log is full and nobody reads it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry {
            child,
            address,
            _data: data,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

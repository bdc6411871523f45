//! The distribution's `docker-registry` on a free port of loopback.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A registry that lives as long as this value, and as the thread that started it.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    address: SocketAddr,
    data: TempDir,
}

impl Registry {
    /// Starts `program` (the `docker-registry` executable) and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path) -> io::Result<Registry> {
        Registry::configured(program, None, false, None)
    }

    /// As [`Registry::start`], on the content of `data`, which stays there.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serving(program: &Path, data: &Path) -> io::Result<Registry> {
        Registry::configured(program, None, false, Some(data))
    }

    /// As [`Registry::start`]; `htpasswd` has one `user:bcrypt` line.
    ///
    /// # Errors
    /// When it does not start.
    pub fn with_authentication(program: &Path, htpasswd: Option<&str>) -> io::Result<Registry> {
        Registry::configured(program, htpasswd, false, None)
    }

    /// As [`Registry::with_authentication`], with TLS: [`Registry::authority`] has signed its
    /// certificate.
    ///
    /// # Errors
    /// When it does not start, or `openssl` makes no certificate.
    pub fn with_tls(program: &Path, htpasswd: &str) -> io::Result<Registry> {
        Registry::configured(program, Some(htpasswd), true, None)
    }

    /// The certificate of the authority that a registry with TLS trusts to sign.
    pub fn authority(&self) -> PathBuf {
        self.data.path().join("ca.crt")
    }

    fn configured(
        program: &Path,
        htpasswd: Option<&str>,
        tls: bool,
        content: Option<&Path>,
    ) -> io::Result<Registry> {
        let data = tempfile::tempdir()?;
        let path = |name: &str| data.path().join(name);
        let tls = if tls {
            certify(data.path())?;
            let (certificate, key) = (path("crt"), path("key"));
            format!(
                ", tls: {{certificate: {}, key: {}}}",
                certificate.display(),
                key.display()
            )
        } else {
            String::new()
        };
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'{tls}}}\n",
            content.unwrap_or(&path("data")).display()
        );
        if let Some(line) = htpasswd {
            let file = data.path().join("htpasswd");
            std::fs::write(&file, line)?;
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                file.display()
            );
        }
        let config_file = data.path().join("config.yml");
        std::fs::write(&config_file, config)?;
        // setpriv: whoever starts a registry and is killed takes it along.
        let mut server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg("serve")
            .arg(&config_file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stderr = server.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let address = match listening(BufReader::new(stderr)) {
            Ok(address) => address,
            Err(error) => {
                server.kill()?;
                server.wait()?;
                return Err(error);
            }
        };
        Ok(Registry {
            server,
            address,
            data,
        })
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Makes an authority and a certificate for 127.0.0.1.
fn certify(directory: &Path) -> io::Result<()> {
    std::fs::write(directory.join("ext"), "subjectAltName=IP:127.0.0.1\n")?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for line in [
        format!("req -x509 {key} -days 30 -subj /CN=ca -keyout ca.key -out ca.crt"),
        format!("req -new {key} -subj /CN=registry -keyout key -out csr"),
        "x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out crt"
            .to_owned(),
    ] {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(directory)
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(said));
        }
    }
    Ok(())
}

fn listening(mut log: impl BufRead + Send + 'static) -> io::Result<SocketAddr> {
    let mut said = String::new();
    loop {
        let start = said.len();
        if log.read_line(&mut said)? == 0 {
            return Err(io::Error::other(format!(
                "docker-registry ended at once: {said}"
            )));
        }
        let address = said[start..]
            .split_once("listening on ")
            .and_then(|(_, rest)| rest.split(['"', ' ', ',']).next());
        if let Some(address) = address {
            let address = address.parse().map_err(io::Error::other)?;
            // It blocks when nobody reads what it says.
            std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
            return Ok(address);
        }
    }
}

//! The laboratory's own corner of the kernel: fresh network, mount and process namespaces, entered
//! by starting the program again under `unshare`.
//!
//! Everything that the laboratory makes (namespaces, addresses, NAT rules, processes) lives inside
//! and ends with it, however it ends: the kernel takes the namespaces back when the last process
//! is gone, and no process survives the first one of its process namespace. Works as root and, in
//! a user namespace, without any privilege.

use std::{
    env,
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

/// Tells the second start of the program that it is inside already.
const MARK: &str = "COOEE_LAB_SANDBOX";

/// What the laboratory runs besides itself, and the Debian package that has it.
const TOOLS: [(&str, &str); 3] =
    [("unshare", "util-linux"), ("ip", "iproute2"), ("nft", "nftables")];

/// Whether this process runs inside.
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Makes sure that the caller runs inside; outside, it does not return but becomes the second
/// start of this program with the same arguments.
pub fn enter() -> Result<()> {
    if is_inside() {
        return prepare();
    }
    check_tools()?;
    check_kernel()?;
    let program = env::current_exe().context("cannot find the running program")?;
    let error = unshare().arg(program).args(env::args_os().skip(1)).env(MARK, "1").exec();
    Err(anyhow!(error).context("cannot run unshare (package util-linux)"))
}

/// `unshare` with the namespaces that the laboratory needs.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

/// Every tool there, or a sentence that says what to install.
pub fn check_tools() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(std::path::PathBuf::from))
        .collect();
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|(tool, _)| !folders.iter().any(|folder| folder.join(tool).exists()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    bail!("the laboratory needs {}: apt-get install {}", missing[0].0, packages.join(" "))
}

fn check_kernel() -> Result<()> {
    let output = unshare()
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .context("cannot run unshare (package util-linux)")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "this kernel refuses network namespaces ({}).\nRun as root, or allow them to users: \
         sysctl -w kernel.unprivileged_userns_clone=1 (and, on Ubuntu, \
         kernel.apparmor_restrict_unprivileged_userns=0)",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// A folder that goes with the sandbox, however it ends; it lies in memory.
pub fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("lab").tempdir_in("/run").context("cannot write below /run")
}

/// Exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Gives `ip netns` a place of its own and brings loopback up; once.
fn prepare() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    end_when_interrupted()?;
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    std::fs::create_dir_all("/run/netns").context("cannot make /run/netns")?;
    run("ip", &["link", "set", "lo", "up"])?;
    File::open("/dev/net/tun").context(
        "the link emulator needs /dev/net/tun (as root: modprobe tun; chmod 666 /dev/net/tun)",
    )?;
    Ok(())
}

/// Ends at once on Ctrl-C and SIGTERM. The first process of a process namespace does not unless it
/// asks for it; the kernel then ends every other process inside and takes the namespaces back.
fn end_when_interrupted() -> Result<()> {
    ctrlc::set_handler(|| std::process::exit(INTERRUPTED)).context("cannot listen for Ctrl-C")
}

/// Runs a tool and fails with what it printed.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<String> {
    feed(tool, arguments, "")
}

/// Runs a tool with `input` on its standard input and fails with what it printed.
pub(crate) fn feed(tool: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(tool)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {tool}"))?;
    let mut stdin = child.stdin.take().context("standard input was piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} {} failed: {}\n{input}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

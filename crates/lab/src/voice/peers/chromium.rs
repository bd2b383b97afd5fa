//! A WebRTC pair in headless Chromium: two browsers, one page each, defaults of `getUserMedia`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{Call, Stage, signalling::Signalling};
use crate::{deployment::Daemon, namespace::inside};

/// How long two browsers may take to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Two browsers in a call.
pub(crate) struct Chromium;

impl Chromium {
    /// Starts both and lets their pages call each other.
    pub(crate) fn call(stage: &Stage<'_>, folder: &Path) -> Result<Box<dyn Call>> {
        let address = stage.ipv4("web")?;
        let namespace = stage.network.namespace("web");
        let signalling = inside(&namespace, || Signalling::start(address))?;
        let url = signalling.url();
        let mut browsers = Vec::new();
        for name in ["bob", "alice"] {
            let profile = folder.join(format!("chromium-{name}"));
            let _ = std::fs::remove_dir_all(&profile);
            std::fs::create_dir_all(&profile)?;
            let mut command = stage.command(name, "chromium");
            command
                .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
                .args(["--disable-dev-shm-usage", "--disable-background-networking"])
                .args(["--use-fake-ui-for-media-stream", "--disable-component-update"])
                .arg("--autoplay-policy=no-user-gesture-required")
                .arg("--disable-features=AudioServiceSandbox,MediaRouter,OptimizationHints")
                .arg(format!("--unsafely-treat-insecure-origin-as-secure={url}"))
                .arg(format!("--user-data-dir={}", profile.display()))
                .arg(format!("{url}/page?{name}"))
                .env("HOME", &profile)
                .env("XDG_RUNTIME_DIR", &profile);
            browsers.push(Daemon::start(&format!("chromium-{name}"), command, folder)?);
        }
        signalling.wait_until_connected(CONNECT_PATIENCE).context("Chromium")?;
        Ok(Box::new(ChromiumCall { browsers, _signalling: signalling }))
    }
}

struct ChromiumCall {
    browsers: Vec<Daemon>,
    _signalling: Signalling,
}

impl Call for ChromiumCall {
    fn pids(&self) -> Vec<u32> {
        self.browsers.iter().rev().map(Daemon::pid).collect()
    }
}

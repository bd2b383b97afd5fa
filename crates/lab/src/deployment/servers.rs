//! Login server and super nodes of a deployment.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use super::{Deployment, READY_PATIENCE};

/// Port of the login server in a deployment whose hosts have addresses of their own.
const LOGIN_SERVER_PORT: u16 = 33033;

/// Attempts that one address may make at once: all users may share one.
const ADDRESS_BURST: &str = "10000";

/// The laboratory's "public" addresses, to which a relay would not send otherwise (RFC 2544).
const LAB_BLOCK: &str = "198.18.0.0/15";

impl Deployment<'_> {
    pub(super) fn init_login_server(&mut self) -> Result<()> {
        let host = self.plan.login_server.clone();
        let ip: IpAddr = self.address(&host)?.parse()?;
        // On one machine another program may hold any fixed port.
        let port = if ip.is_loopback() { free_port(ip)? } else { LOGIN_SERVER_PORT };
        let address = SocketAddr::new(ip, port).to_string();
        let folder = self.path("login-server")?;
        let other = self.ground.ipv6(&host).map(|ip| SocketAddr::new(ip, port).to_string());
        let mut init = vec!["login-server", "init", "--dir", &folder];
        for address in std::iter::once(&address).chain(&other) {
            init.extend(["--advertise", address, "--listen", address]);
        }
        self.command(&host, &init)?;
        Ok(())
    }

    pub(super) fn start_login_server(&mut self) -> Result<()> {
        let folder = self.path("login-server")?;
        let arguments = ["login-server", "run", "--dir", &folder, "--address-burst", ADDRESS_BURST];
        let mut server = self.daemon("login-server", &self.plan.login_server, &arguments)?;
        server.wait_for("listening", READY_PATIENCE, |line| {
            (line["event"] == "listening").then_some(())
        })?;
        self.login_server = Some(server);
        Ok(())
    }

    /// Starts the login server again after it was killed.
    pub fn restart_login_server(&mut self) -> Result<()> {
        self.start_login_server()
    }

    /// Bytes of voice that each super node has relayed so far.
    pub fn relayed_bytes(&self) -> Result<Vec<u64>> {
        let of = |(index, host): (usize, &String)| {
            let profile = self.path(&format!("super-node-{}", index + 1))?;
            let status = self.command(host, &["status", "--profile-dir", &profile])?;
            status["relayed_bytes"].as_u64().context("a super node tells what it relayed")
        };
        self.plan.super_nodes.iter().enumerate().map(of).collect()
    }

    /// The network's invitation, as the login server knows it now.
    pub(super) fn invite(&self) -> Result<String> {
        let folder = self.path("login-server")?;
        let answer =
            self.command(&self.plan.login_server, &["login-server", "invite", "--dir", &folder])?;
        let invitation = answer["invitation"].as_str().context("an invitation is printed")?;
        Ok(invitation.to_owned())
    }

    pub(super) fn start_super_node(&mut self, index: usize) -> Result<()> {
        let host = self.plan.super_nodes[index].clone();
        let folder = self.path("login-server")?;
        let enrol = ["login-server", "enrol-token", "--dir", &folder];
        let token = self.command(&self.plan.login_server, &enrol)?;
        let token = token["token"].as_str().context("a token is printed")?.to_owned();
        let profile = self.path(&format!("super-node-{}", index + 1))?;
        let address = self.address(&host)?;
        let mut arguments = vec!["super-node", "--profile-dir", &profile, "--enrol", &token];
        arguments.extend(["--invitation", &self.invitation, "--advertise", &address]);
        let other = self.ground.ipv6(&host).map(|ip| ip.to_string());
        if let Some(other) = &other {
            arguments.extend(["--advertise", other, "--bind", "::"]);
        }
        let port = self.plan.super_node_port.map(|port| port.to_string());
        if let Some(port) = &port {
            arguments.extend(["--port", port]);
        }
        if !self.plan.well_known_ports {
            arguments.push("--no-well-known-ports");
        }
        let is_this_machine = self.ground.is_this_machine();
        arguments.extend(["--relay-to", if is_this_machine { "127.0.0.0/8" } else { LAB_BLOCK }]);
        if is_this_machine {
            arguments.extend(["--bind", &address, "--loopback"]);
        }
        let mut daemon = self.daemon(&format!("super-node-{}", index + 1), &host, &arguments)?;
        let port = daemon.wait_for("listening", READY_PATIENCE, |line| {
            (line["event"] == "listening").then(|| line["port"].as_u64()).flatten()
        })?;
        self.super_nodes.push(daemon);
        self.super_node_addresses.push(SocketAddr::new(address.parse()?, u16::try_from(port)?));
        Ok(())
    }
}

fn free_port(ip: IpAddr) -> Result<u16> {
    Ok(std::net::TcpListener::bind((ip, 0))?.local_addr()?.port())
}

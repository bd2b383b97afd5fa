//! What two pages need to find each other: a page, and a letter box for each.
//!
//! `GET /page` is the page; `POST /say/NAME` puts a letter into a box; `GET /hear/NAME` takes one
//! out, 204 when there is none yet. HTTP/1.1, one request a connection, only for the laboratory.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;

const PAGE: &str = include_str!("page.html");

/// Longest letter, in bytes; letters in a box.
const LETTER_BYTES_MAX: usize = 64 * 1024;
const LETTERS_MAX: usize = 64;

/// How long a request waits for a letter.
const HEAR_PATIENCE: Duration = Duration::from_secs(5);

type Boxes = Arc<Mutex<BTreeMap<String, VecDeque<String>>>>;

/// The server; ends when dropped.
pub(super) struct Signalling {
    address: SocketAddr,
    boxes: Boxes,
    stop: Arc<AtomicBool>,
}

impl Signalling {
    /// Listens on `address`, on any port.
    pub(super) fn start(address: Ipv4Addr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (boxes, stop) = (Boxes::default(), Arc::new(AtomicBool::new(false)));
        let (served, told) = (boxes.clone(), stop.clone());
        thread::Builder::new().name("signalling".to_owned()).spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let boxes = served.clone();
                        thread::spawn(move || serve(&stream, &boxes));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self { address, boxes, stop })
    }

    /// Where the page is.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until both pages said that they are connected.
    pub(super) fn wait_until_connected(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        let mut connected = BTreeMap::new();
        while connected.len() < 2 {
            if Instant::now() > until {
                bail!("the pages did not connect within {patience:?}");
            }
            let Some(letter) = take(&self.boxes, "lab") else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let letter: Value = serde_json::from_str(&letter)?;
            let text = letter["text"].as_str().unwrap_or_default();
            if text.starts_with("failed") {
                bail!("{}'s page {text}", letter["from"].as_str().unwrap_or_default());
            }
            if text == "connected" {
                connected.insert(letter["from"].to_string(), ());
            }
        }
        Ok(())
    }
}

impl Drop for Signalling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn take(boxes: &Boxes, name: &str) -> Option<String> {
    boxes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name)?.pop_front()
}

fn serve(stream: &TcpStream, boxes: &Boxes) {
    // A browser that goes away in the middle is no concern of ours.
    let _ = answer(stream, boxes);
}

fn answer(mut stream: &TcpStream, boxes: &Boxes) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HEAR_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, kind, body) = if path.starts_with("/page") {
        ("200 OK", "text/html", PAGE.to_owned())
    } else if let Some(name) = path.strip_prefix("/say/") {
        let mut letter = vec![0; length.min(LETTER_BYTES_MAX)];
        reader.read_exact(&mut letter)?;
        let mut boxes = boxes.lock().unwrap_or_else(PoisonError::into_inner);
        let letters = boxes.entry(name.to_owned()).or_default();
        if letters.len() < LETTERS_MAX {
            letters.push_back(String::from_utf8(letter)?);
        }
        ("200 OK", "application/json", "{}".to_owned())
    } else if let Some(name) = path.strip_prefix("/hear/") {
        hear(boxes, name)
    } else {
        ("404 Not Found", "text/plain", String::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(())
}

fn hear(boxes: &Boxes, name: &str) -> (&'static str, &'static str, String) {
    let until = Instant::now() + HEAR_PATIENCE;
    while Instant::now() < until {
        if let Some(letter) = take(boxes, name) {
            return ("200 OK", "application/json", letter);
        }
        thread::sleep(Duration::from_millis(10));
    }
    ("204 No Content", "application/json", String::new())
}

//! QEMU's monitor.

use super::PATIENCE;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A connection to the monitor.
pub struct Qmp {
    answers: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Greets a monitor that has connected.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut qmp = Self {
            answers: BufReader::new(stream),
            events: VecDeque::new(),
        };
        qmp.receive();
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        let got = self
            .answers
            .read_line(&mut line)
            .expect("QEMU's monitor answers");
        assert!(got > 0, "QEMU closed its monitor");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Gives a command that must succeed.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        let stream = self.answers.get_mut();
        stream
            .write_all(line.as_bytes())
            .expect("QEMU's monitor listens");
        loop {
            let mut answer = self.receive();
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(result) = answer.get_mut("return") {
                return result.take();
            } else {
                panic!("QEMU refused {command}: {answer}");
            }
        }
    }

    /// Waits for an event whose data is as asked for.
    pub fn wait(&mut self, event: &str, mut is_it: impl FnMut(&Value) -> bool) {
        loop {
            let next = match self.events.pop_front() {
                Some(next) => next,
                None => self.receive(),
            };
            if next["event"] == event && is_it(&next["data"]) {
                return;
            }
        }
    }

    /// Major and minor version of QEMU.
    pub fn version(&mut self) -> (u64, u64) {
        let version = &self.execute("query-version", &json!({}))["qemu"];
        let number = |name: &str| version[name].as_u64().expect("a number");
        (number("major"), number("minor"))
    }
}

//! A guest's devices without its RAM, as QEMU saves and loads them.

use super::flow::Stage;
use super::machine::{Machine, Qemu, accept};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

fn migration_ended(data: &Value) -> bool {
    assert_ne!(data["status"], "failed", "the migration failed");
    data["status"] == "completed"
}

/// Tells of the end of a migration by an event; leaves out RAM that belongs to a file, if asked to.
fn set_capabilities(qemu: &mut Qemu, without_ram: bool) {
    let list = json!([
        {"capability": "events", "state": true},
        {"capability": "x-ignore-shared", "state": without_ram},
    ]);
    qemu.qmp
        .execute("migrate-set-capabilities", &json!({"capabilities": list}));
}

impl Machine {
    /// Writes the state of the devices, and nothing of the RAM, to a file. The guest must be stopped.
    pub fn save_devices(&self, stage: &Stage, qemu: &mut Qemu) -> PathBuf {
        let path = stage.unique("state");
        let mut file = File::create(&path).expect("space");
        if self.saves_devices_alone() {
            stage.open_to_all(&path);
            // Has nothing to do with Xen but its name, and must come before any migration.
            let arguments = json!({"filename": path, "live": false});
            qemu.qmp.execute("xen-save-devices-state", &arguments);
        } else {
            // Later versions ignore only memory that has a file name; the caller sees it by the length.
            set_capabilities(qemu, true);
            let socket = stage.unique("save");
            let listener = UnixListener::bind(&socket).expect("a socket");
            stage.open_to_all(&socket);
            let uri = format!("unix:{}", socket.display());
            qemu.qmp.execute("migrate", &json!({"uri": uri}));
            let mut stream = accept(&listener, &mut qemu.process);
            io::copy(&mut stream, &mut file).expect("the device state");
            qemu.qmp.wait("MIGRATION", migration_ended);
        }
        path
    }

    /// Loads what `save_devices` wrote. The guest's RAM must be in place, or be served.
    pub fn load_devices(&self, stage: &Stage, qemu: &mut Qemu, state: &Path) {
        set_capabilities(qemu, !self.saves_devices_alone());
        let socket = stage.unique("load");
        let uri = format!("unix:{}", socket.display());
        qemu.qmp.execute("migrate-incoming", &json!({"uri": uri}));
        let mut stream = UnixStream::connect(&socket).expect("QEMU listens");
        let bytes = fs::read(state).expect("the device state");
        // QEMU may close at the last byte it wants.
        drop(io::copy(&mut bytes.as_slice(), &mut stream));
        drop(stream.shutdown(Shutdown::Write));
        qemu.qmp.wait("MIGRATION", migration_ended);
    }

    /// Loads an ordinary migration stream, RAM included, from a command's output.
    pub fn load_everything(qemu: &mut Qemu, command: &str) {
        set_capabilities(qemu, false);
        let uri = format!("exec:{command}");
        qemu.qmp.execute("migrate-incoming", &json!({"uri": uri}));
        qemu.qmp.wait("MIGRATION", migration_ended);
    }

    /// Writes an ordinary migration stream, RAM included, to a file.
    pub fn save_everything(stage: &Stage, qemu: &mut Qemu) -> PathBuf {
        set_capabilities(qemu, false);
        let path = stage.unique("stream");
        // Otherwise QEMU holds itself back, for the sake of a network.
        let limit = json!({"max-bandwidth": 1_u64 << 40});
        qemu.qmp.execute("migrate-set-parameters", &limit);
        let uri = format!("exec:cat > {}", path.display());
        qemu.qmp.execute("migrate", &json!({"uri": uri}));
        qemu.qmp.wait("MIGRATION", migration_ended);
        path
    }
}

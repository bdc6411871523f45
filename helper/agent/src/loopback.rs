//! The loopback interface, brought up before anybody can miss it and no sooner.
//!
//! Of what a boot makes an emulated processor translate, its addresses and routes are a tenth: mostly that happens while
//! the host begins its first command, and not while it waits.

use std::io;
use std::sync::Once;

use crate::console;
use crate::role::{Role, role};
use crate::sys::netdevice::Interfaces;

static ENSURED: Once = Once::new();

/// Brings it up, the first time. A guest without is worse, not broken, so what fails is on the console.
pub(crate) fn ensure() {
    ENSURED.call_once(|| {
        if role() != Role::Test
            && let Err(error) = bring_up()
        {
            console::say(&format!("could not bring loopback up: {error}"));
        }
    });
}

fn bring_up() -> io::Result<()> {
    Interfaces::open()?.up("lo")
}

//! What the daemon says, as the records that commands print.

use lib_model::{AddressRecord, NetworkRecord, SCHEMA};

use crate::{NetError, NetworkStatus, Reservation, VmId};

/// The id of a VM in the store is one for the daemon.
///
/// # Panics
/// Never: both are 16 hexadecimal digits.
pub fn vm_id(id: &lib_model::VmId) -> VmId {
    VmId::try_from(id.as_str()).expect("an id is 16 hexadecimal digits")
}

/// The network.
pub fn network_record(status: NetworkStatus, changed: bool) -> NetworkRecord {
    NetworkRecord {
        schema: SCHEMA,
        bridge: status.bridge.to_string(),
        up: status.up,
        gateway: status.gateway,
        prefix: status.prefix,
        reserved: status.reserved,
        free: status.free,
        attached: status.attached,
        forwarding: status.forwarding,
        forwarding_is_ours: status.forwarding_is_ours,
        admitted: status.admitted,
        leftovers: status.leftovers,
        daemon: status.program,
        changed,
    }
}

/// A VM's place in it.
///
/// # Errors
/// [`NetError::Broken`] when the daemon has a name that no VM can have.
pub fn address_record(reservation: Reservation, changed: bool) -> Result<AddressRecord, NetError> {
    let broken = |error: String| NetError::Broken(error);
    Ok(AddressRecord {
        schema: SCHEMA,
        id: lib_model::VmId::try_from(reservation.vm.as_str())
            .map_err(|error| broken(error.to_string()))?,
        name: lib_model::VmName::try_from(reservation.name.as_str())
            .map_err(|error| broken(error.to_string()))?,
        uid: reservation.uid,
        address: reservation.address,
        mac: reservation.mac.to_string(),
        interface: reservation.interface.to_string(),
        attached: reservation.attached,
        nat: reservation.nat,
        group: reservation.group.map(String::from),
        created_ms: reservation.reserved_ms,
        jailed: reservation.jailed,
        devices: reservation.devices,
        changed,
    })
}

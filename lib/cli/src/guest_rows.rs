//! Rows of records about running VMs.

use lib_model::{ByteSize, Record, StatsRecord};

use crate::{net_rows, printable, workspace_rows};

/// The columns of a record's table.
pub(crate) fn heading(record: &Record) -> &'static [&'static str] {
    match record {
        Record::Copy(_) => &["VM", "ENTRIES", "BYTES", "LEFT OUT"],
        Record::Socket(_) => &[
            "VM", "PROTOCOL", "ADDRESS", "PORT", "PID", "PROCESS", "HTTP",
        ],
        Record::Published(_) => &["VM", "HOST", "GUEST", "PROTOCOL", "ACTIVE"],
        Record::Stats(_) => &[
            "VM", "CPU %", "LOAD", "MEMORY", "OF", "VMM RSS", "DISK", "ON HOST", "NET IN",
            "NET OUT", "READ", "WRITTEN", "PROCS", "UP",
        ],
        Record::Ping(_) => &["VM", "SEQUENCE", "MILLISECONDS", "AGENT"],
        Record::Volume(_) => &["NAME", "SIZE", "USED", "VMS"],
        Record::Layout(_) => &["DIGEST", "SIZE", "PATH"],
        Record::Event(_) => &["TIME", "VM", "EVENT", "DETAIL"],
        Record::Network(_)
        | Record::Address(_)
        | Record::Check(_)
        | Record::Name(_)
        | Record::Answer(_)
        | Record::Route(_) => net_rows::heading(record),
        Record::Workspace(_)
        | Record::Change(_)
        | Record::Export(_)
        | Record::Watch(_)
        | Record::Sync(_) => workspace_rows::heading(record),
        Record::Image(_)
        | Record::Kernel(_)
        | Record::Vm(_)
        | Record::Operation(_)
        | Record::Blob(_) => &[],
    }
}

/// The cells of a record.
pub(crate) fn row(record: &Record) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    match record {
        Record::Copy(copy) => vec![
            copy.name.to_string(),
            copy.entries.to_string(),
            ByteSize(copy.bytes).to_string(),
            copy.left_out.to_string(),
        ],
        Record::Socket(socket) => vec![
            socket.name.to_string(),
            socket.protocol.clone(),
            socket.address.to_string(),
            socket.port.to_string(),
            or_dash(socket.pid.map(|pid| pid.to_string())),
            or_dash(socket.process.clone()),
            or_dash(socket.http.map(|status| status.to_string())),
        ],
        Record::Published(port) => vec![
            port.name.to_string(),
            std::net::SocketAddr::new(port.address, port.host_port).to_string(),
            port.guest_port.to_string(),
            port.protocol.clone(),
            if port.active { "yes" } else { "no" }.into(),
        ],
        Record::Stats(stats) => stats_row(stats),
        Record::Volume(volume) => vec![
            volume.name.clone(),
            volume.size.to_string(),
            volume.used.to_string(),
            volume.vms.join(", "),
        ],
        Record::Layout(layout) => vec![
            layout.digest.short().to_owned(),
            layout.size.to_string(),
            printable(&layout.path),
        ],
        Record::Ping(ping) => vec![
            ping.name.to_string(),
            ping.sequence.to_string(),
            format!(
                "{}.{:03}",
                ping.round_trip_us / 1000,
                ping.round_trip_us % 1000
            ),
            ping.agent.clone(),
        ],
        Record::Event(event) => vec![
            utc(event.time_ms),
            event.name.clone(),
            event.event.clone(),
            or_dash(event.detail.clone()),
        ],
        Record::Network(_)
        | Record::Address(_)
        | Record::Check(_)
        | Record::Name(_)
        | Record::Answer(_)
        | Record::Route(_) => net_rows::row(record),
        Record::Workspace(_)
        | Record::Change(_)
        | Record::Export(_)
        | Record::Watch(_)
        | Record::Sync(_) => workspace_rows::row(record),
        Record::Image(_)
        | Record::Kernel(_)
        | Record::Vm(_)
        | Record::Operation(_)
        | Record::Blob(_) => vec![],
    }
}

fn stats_row(stats: &StatsRecord) -> Vec<String> {
    let size = |size: Option<ByteSize>| size.map_or_else(|| "-".into(), |size| size.to_string());
    let decimal = |number: f64| format!("{number:.1}");
    vec![
        stats.name.to_string(),
        stats.cpu_percent.map_or_else(|| "-".into(), decimal),
        stats
            .load
            .map_or_else(|| "-".into(), |load| format!("{:.2}", load[0])),
        size(stats.memory_used),
        size(stats.memory_total),
        size(stats.vmm_rss),
        size(stats.disk_used),
        size(stats.disk_on_host),
        size(stats.network_received),
        size(stats.network_sent),
        size(stats.block_read),
        size(stats.block_written),
        stats
            .processes
            .map_or_else(|| "-".into(), |count| count.to_string()),
        stats
            .uptime_ms
            .map_or_else(|| "-".into(), |ms| crate::age(0, ms)),
    ]
}

/// A line of a table whose later rows are not known yet.
pub(crate) fn live_line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells
        .map(|cell| format!("{:<10}", printable(cell).replace('\n', "\\n")))
        .collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// `2026-11-20 17:05:09Z` (the civil calendar, days from 1970-01-01).
pub fn utc(time_ms: u64) -> String {
    let seconds = time_ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let mut left = days;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
        if year > 9999 {
            return "after the year 9999".into();
        }
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}Z",
        left + 1,
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (4_107_542_399, "2100-02-28 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
            (1_796_083_200, "2026-12-01 00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000), text);
        }
        assert_eq!(utc(u64::MAX), "after the year 9999");
    }
}

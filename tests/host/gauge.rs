//! The battery's gauge: its keys, and the real agent beside one.

use crate::home::{Home, poll};

const BATTERY: &str = "source = \"battery\"\nholdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 100\n\
                       low_percent = 20";

fn refusal(gauge: &str) -> String {
    let home = Home::with("holdup_ms = 4000", &format!("[gauge]\n{gauge}"));
    let out = home.holdup(&["config", "check"]);
    assert_eq!(out.status.code(), Some(2), "{gauge} was taken");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_gauge_that_cannot_be_right_is_refused_with_the_remedy() {
    for (gauge, says) in [
        (
            "kind = \"max17040\"\naddress = 0x40",
            "0x40 is no address of a max17040; remove it: a max17040 is always at 0x36",
        ),
        (
            "kind = \"ina219\"\naddress = 0x36\nempty_mv = 6000\nfull_mv = 8400",
            "give one from 0x40 to 0x4f",
        ),
        (
            "kind = \"ina219\"\nfull_mv = 8400",
            "gauge.empty_mv: is missing: an ina219 measures volts, not charge",
        ),
        (
            "kind = \"ina219\"\nempty_mv = 8400\nfull_mv = 8400",
            "8400 mV is not more than empty_mv (8400)",
        ),
        ("kind = \"max17055\"", "\"max17055\" is not known"),
    ] {
        let said = refusal(gauge);
        assert!(said.contains(says), "{gauge}:\n{said}");
    }
}

#[test]
fn addresses_may_be_written_as_people_write_them() {
    let home = Home::with(
        "holdup_ms = 4000",
        "[gauge]\nkind = \"ina219\"\naddress = 0x43\nempty_mv = 6000\nfull_mv = 8400",
    );
    let out = home.holdup(&["config", "show"]);
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("address = 67 "), "{shown}");
}

#[test]
fn a_gauge_that_cannot_be_read_costs_the_gauge_and_nothing_else() {
    let home = Home::new();
    let text = std::fs::read_to_string(home.config()).expect("config");
    let gauge = "[gauge]\nkind = \"max17048\"\nbus = \"/dev/i2c-nowhere\"\npoll_s = 1\n";
    home.write("holdup.toml", format!("{text}\n{gauge}").as_bytes());

    let doctor = |agent: &str| {
        let out = home.holdup(&["doctor", "--json"]);
        let checks: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
        let text = checks.to_string();
        assert!(
            text.contains("/dev/i2c-nowhere") && text.contains("dtparam=i2c_arm=on"),
            "{agent}: {text}"
        );
    };
    doctor("no agent");
    let mut agent = home.serving();
    let s = agent.wait_for("polls that fail", |s| {
        s["gauge"]["failures"].as_u64() >= Some(3)
    });
    assert!(s["gauge"]["percent"].is_null(), "{s}");
    assert!(s["gauge_percent"].is_null(), "{s}");
    doctor("with an agent");
    let said = home.log().matches("there is no /dev/i2c-nowhere").count();
    assert_eq!(said, 1, "once in the log:\n{}", home.log());
    let out = home.holdup(&["status"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("no reading, gauge: there is no"), "{text}");
    home.power(true);
    agent.wait_for_supply("Parked");
    agent.stop();
}

#[test]
fn a_battery_that_is_nearly_empty_at_start_is_said_and_not_ridden() {
    let home = Home::with(BATTERY, "");
    let mut agent = home.serving();
    assert_eq!(home.sim("gauge 3.2 4"), "ok");
    let s = agent.wait_for("a low battery", |s| {
        let reasons = s["reasons"].as_array();
        reasons.is_some_and(|r| r.iter().any(|r| r == "battery_low"))
    });
    assert_eq!(s["supply"], "Good", "mains are there: {s}");
    poll("the words in the log", || {
        home.log().contains("battery low: ").then_some(())
    });
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["kind"], "battery_low");
    assert!(!home.log().contains("serving from the battery"));
}

#[test]
fn a_capacitor_serves_on_whatever_a_gauge_says() {
    let home = Home::new();
    let mut agent = home.serving();
    assert_eq!(home.sim("gauge 0.1 0"), "ok");
    let seen = |s: &serde_json::Value| s["gauge_percent"].as_f64() == Some(0.0);
    let before = agent.wait_for("the reading", seen)["uptime_s"].as_u64();
    let s = agent.wait_for("several looks at it", |s| {
        s["uptime_s"].as_u64() >= before.map(|b| b + 3)
    });
    assert_eq!(s["supply"], "Good");
    assert!(s["last_outage"].is_null(), "no plan ran: {s}");
    assert!(!s["reasons"].to_string().contains("battery_low"), "{s}");
}

#[test]
fn after_repeated_outages_ingest_waits_at_boot_until_the_gauge_says_charged() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 1\n\
         settle_ms = 3600000",
        "",
    );
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    agent.kill();
    // Power is good again, the line reads so from the start.
    let mut agent = home.start();
    agent.wait_for("the boot", |s| s["gpio"]["reads"] == "good");
    let mut client = home.client();
    assert_eq!(client.wait_for("paused")["paused"], "starting");
    client.send();
    assert_eq!(agent.status().expect("status")["supply"], "Starting");
    assert_eq!(home.sim("gauge 3.7 50"), "ok");
    agent.wait_for("the reading", |s| s["gauge_percent"] == 50.0);
    assert_eq!(agent.status().expect("status")["supply"], "Starting");
    assert_eq!(home.sim("gauge 4.2 97"), "ok");
    agent.wait_for_supply("Good");
    client.wait_acked(1);
    let said = "outages in the last ten minutes: 1; service begins";
    assert!(home.log().contains(said), "{}", home.log());
    agent.stop();
}

//! What is a command, who may give it, and that every row of help fits the screen.

use super::*;

#[test]
fn a_command_is_all_of_its_words_and_what_it_takes() {
    let name = |line: &str| find(line).ok().map(|o| o.command.name);
    assert_eq!(name("  queue   list "), Some("queue list"));
    assert_eq!(name("queue"), Some("queue"));
    assert_eq!(name("log"), Some("log"));
    assert_eq!(name("log live"), Some("log live"));
    let order = find(" reset   data ").expect("an order");
    assert_eq!((order.command.name, order.args.as_str()), ("reset", "data"));
    assert_eq!(order.action(), "reset/data");
    let waived = find("reset everything without-backup waive-undelivered").expect("an order");
    assert_eq!(
        waived.action(),
        "reset/everything/without-backup/waive-undelivered"
    );
    let set = find("config set gateway.id plant 8").expect("an order");
    assert_eq!(
        set.words().collect::<Vec<_>>(),
        ["gateway.id", "plant", "8"]
    );
    for no in [
        "",
        "Queue",
        "queue list all",
        "reboot now",
        "qu",
        "reboot;x",
        "reset",
        "reset data now",
        "reset all",
        "reset waive-undelivered",
        "reset plan",
        "reset plan disk",
        "config set gateway.id",
        "send a b",
    ] {
        assert!(find(no).is_err(), "{no}");
    }
}

#[test]
fn no_word_becomes_an_option_and_no_two_actions_are_signed_alike() {
    for no in [
        "log --file=/etc/shadow",
        "send -x",
        "restore a$b",
        "restore a/b S",
    ] {
        assert!(matches!(find(no), Err(NoOrder::Word)), "{no}");
    }
    let action = |line: &str| find(line).expect("an order").action();
    assert_ne!(action("restore a-b c"), action("restore a b-c"));
}

#[test]
fn every_command_fits_a_row_and_is_explained() {
    let rows: Vec<_> = (0..).map_while(|n| help(n, true)).collect();
    assert_eq!(rows.len(), COMMANDS.len() + 1);
    for (row, c) in rows.iter().zip(COMMANDS) {
        assert!(row.chars().count() < 80 && row.ends_with('\n'), "{row}");
        assert!(row.contains(c.name) && row.contains(c.about), "{row}");
        let more: Vec<_> = (0..).map_while(|n| explain(c, n)).collect();
        assert!(
            more.len() >= 4 && more.iter().all(|r| r.ends_with('\n')),
            "{more:?}"
        );
        if let Needs::Yes(what) | Needs::Name(what) | Needs::Signature(what) = c.needs {
            let long = what.split("\r\n").find(|r| r.chars().count() >= 80);
            assert_eq!(long, None, "{}", c.name);
        }
        let typed = if c.example.is_empty() {
            c.name
        } else {
            c.example
        };
        let typed = typed.split(" (").next().expect("text");
        assert!(
            find(typed).is_ok_and(|f| f.command.name == c.name),
            "{typed}"
        );
    }
    let last = (0..).map_while(|n| help(n, false)).last();
    assert!(last.is_some_and(|l| l.contains("After login there are more")));
}

#[test]
fn only_what_anybody_may_do_is_offered_before_login() {
    assert_eq!(
        words("", false),
        ["look", "help", "login", "claim", "logout"]
    );
    assert_eq!(words("queue ", true), ["list", "dead"]);
    assert_eq!(words("help queue ", true), ["list", "dead"]);
    assert!(words("reb", true).contains(&"reboot"));
    assert!(words("data recover now ", true).is_empty());
}

#[test]
fn what_erases_wants_a_signature_and_what_only_reads_is_a_viewers() {
    for c in COMMANDS {
        let erases = ["restore", "reset"].contains(&c.name);
        assert_eq!(matches!(c.needs, Needs::Signature(_)), erases, "{}", c.name);
        if let Does::Program(_)
        | Does::Restore
        | Does::Reset
        | Does::Databases(_)
        | Does::Store(_)
        | Does::Send = c.does
        {
            assert!(
                !matches!(c.needs, Needs::Nobody | Needs::Login),
                "{}",
                c.name
            );
        }
    }
}

//! `cross` reads Cargo.toml unless told to read cross.toml: both must say the same.

use std::fs;
use std::path::Path;

#[test]
fn cross_toml_and_the_metadata_in_cargo_toml_agree() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| -> toml::Table {
        fs::read_to_string(top.join(name))
            .expect(name)
            .parse()
            .expect(name)
    };
    let cargo = read("Cargo.toml");
    let metadata = cargo["package"]["metadata"]["cross"]
        .as_table()
        .expect("a table")
        .clone();
    assert_eq!(read("cross.toml"), metadata);
}

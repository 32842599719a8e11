//! `holdup config check|show`: is the configuration good, and what does it amount to?

use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::config::{self, Value};

/// Says whether the configuration at `path` is good, what was read and what looks odd.
///
/// Returns the exit code, 0.
///
/// # Errors
/// [`config::ConfigError`] with everything that is wrong (exit code 2), or a failed write.
pub fn check(path: &Path, out: &mut dyn Write, json: bool) -> anyhow::Result<u8> {
    let loaded = config::load(path)?;
    let files: Vec<String> = loaded
        .files
        .iter()
        .map(|f| f.display().to_string())
        .collect();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    if json {
        let answer = json!({ "ok": true, "files": files, "warnings": warnings });
        writeln!(out, "{answer:#}")?;
        return Ok(0);
    }
    writeln!(out, "ok")?;
    for file in files {
        writeln!(out, "read     {file}")?;
    }
    for warning in warnings {
        writeln!(out, "warning  {warning}")?;
    }
    Ok(0)
}

/// Prints every key with its value and where that came from; as TOML that loads to the same
/// settings, or as JSON.
///
/// Returns the exit code, 0.
///
/// # Errors
/// As [`check`].
pub fn show(path: &Path, out: &mut dyn Write, json: bool) -> anyhow::Result<u8> {
    let loaded = config::load(path)?;
    if !json {
        out.write_all(loaded.to_toml().as_bytes())?;
        return Ok(0);
    }
    let rows: Vec<serde_json::Value> = loaded
        .rows()
        .iter()
        .map(|row| {
            let value = match &row.value {
                None => serde_json::Value::Null,
                Some(Value::Text(t)) => json!(t),
                Some(Value::Int(n)) => json!(n),
                Some(Value::Bool(b)) => json!(b),
                Some(Value::List(all)) => json!(all),
            };
            json!({ "key": row.key(), "value": value, "origin": row.origin })
        })
        .collect();
    writeln!(out, "{:#}", json!(rows))?;
    Ok(0)
}

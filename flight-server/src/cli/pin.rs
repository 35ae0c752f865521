//! `jetbridge pin` and `unpin`: what stays in the cache whatever else is read.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ClientArgs, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, human_bytes, print, print_json};
use super::preload::Tier;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  jetbridge pin /lake/trips
  jetbridge pin /lake/trips --tier raw
  jetbridge preload /lake/trips --wait && jetbridge pin /lake/trips
  jetbridge pin --list -o json

A pin keeps what is held of a path, and what is read of it from then on; it loads nothing itself. It holds for all mounts at \
and below the path, and stays when these are unmounted, so that it holds again for what is mounted there later. What would \
leave the workers too little room to work with is refused, with figures.")]
pub(super) struct PinArgs {
    /// Namespace path, or a mounted URI; / is everything
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    path: Option<String>,
    /// What to keep: stored bytes (raw), decoded columns, or both. A path that is pinned already is pinned anew [default: both]
    #[arg(long, value_name = "TIER", conflicts_with = "list")]
    tier: Option<Tier>,
    /// List the pins instead
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  jetbridge unpin /lake/trips\n  jetbridge unpin /lake/trips && jetbridge free /lake/trips"
)]
pub(super) struct UnpinArgs {
    /// The path, as it was pinned; `jetbridge pin --list` shows it
    path: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// A pin, with what the data came to when it was made.
#[derive(Debug, Deserialize)]
struct Pin {
    path: String,
    tier: String,
    bytes: u64,
    decoded_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Pins {
    pins: Vec<Pin>,
}

/// Pins a path, or lists the pins.
pub(super) async fn pin(arguments: PinArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let Some(path) = &arguments.path else {
        return list(&mut client, arguments.output.form).await;
    };
    let mut body = json!({ "path": path });
    if let Some(tier) = arguments.tier {
        body["tier"] = json!(tier);
    }
    let answer = client.action("cache.pin", &body).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&pinned_text(&parsed("cache.pin", &answer)?)),
    }
}

/// Lets go of a pin.
pub(super) async fn unpin(arguments: UnpinArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let answer = client.action("cache.unpin", &json!({ "path": arguments.path })).await;
    let answer = answer.map_err(CliError::of_no_path)?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => {
            let pin: Pin = parsed("cache.unpin", &answer)?;
            print(&format!(
                "unpinned {}; what is held of it stays until other data is worth more",
                pin.path
            ))
        }
    }
}

async fn list(client: &mut Client, form: Form) -> Result<(), CliError> {
    let answer = client.action("cache.pins", &json!({})).await?;
    match form {
        Form::Json => print_json(&answer["pins"]),
        Form::Table => {
            let pins: Pins = parsed("cache.pins", &answer)?;
            print(&pins_table(&pins.pins))
        }
    }
}

fn pinned_text(pin: &Pin) -> String {
    let (raw, decoded) = (human_bytes(pin.bytes), human_bytes(pin.decoded_bytes));
    let size = match pin.tier.as_str() {
        "raw" => format!("{raw} stored"),
        "decoded" => format!("{decoded} decoded"),
        _ => format!("{raw} stored and {decoded} decoded"),
    };
    format!("pinned {}: up to {size}\n", pin.path)
}

fn pins_table(pins: &[Pin]) -> String {
    let mut columns = Columns::new(&["PATH", "TIER", "STORED", "DECODED"], &[2, 3]);
    for pin in pins {
        columns.row(&[
            &pin.path,
            &pin.tier,
            &human_bytes(pin.bytes),
            &human_bytes(pin.decoded_bytes),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(tier: &str) -> Pin {
        let answer = json!({ "path": "/lake", "tier": tier, "bytes": 2048, "decoded_bytes": 4096 });
        serde_json::from_value(answer).unwrap()
    }

    #[test]
    fn what_is_pinned_is_told_by_tier() {
        assert_eq!(pinned_text(&pin("raw")), "pinned /lake: up to 2.0 KiB stored\n");
        assert_eq!(pinned_text(&pin("decoded")), "pinned /lake: up to 4.0 KiB decoded\n");
        assert_eq!(
            pinned_text(&pin("both")),
            "pinned /lake: up to 2.0 KiB stored and 4.0 KiB decoded\n"
        );
    }

    #[test]
    fn pins_have_a_line_each() {
        let text = pins_table(&[pin("both"), pin("raw")]);
        let words: Vec<_> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(words, ["/lake", "raw", "2.0", "KiB", "4.0", "KiB"], "{text}");
    }
}

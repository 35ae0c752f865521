//! `jetbridge workers` and `locate`: who is there, and who owns what.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ClientArgs, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, human_bytes, human_count, print, print_json};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  jetbridge workers
  jetbridge workers --uri grpc://node-1:8815 -o json

SHARE is the part of the data that a worker owns, SEAT whether it has any. A worker that is lost keeps its seat for a while, which
is its own member_grace: whoever reads what it owns is sent to others meanwhile.")]
pub(super) struct WorkersArgs {
    /// Show coordinators too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  jetbridge locate /lake/trips
  jetbridge locate s3://bucket/trips/part-0.parquet -o json")]
pub(super) struct LocateArgs {
    /// Namespace path, or a mounted URI
    path: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Shows the workers of the cluster.
pub(super) async fn workers(arguments: WorkersArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let mut answer = client.action("cluster.members", &json!({})).await?;
    if let Some(members) = answer["members"].as_array_mut().filter(|_| !arguments.all) {
        members.retain(|member| member["role"] != "coordinator");
    }
    match arguments.output.form {
        Form::Json => print_json(&answer["members"]),
        Form::Table => print(&members_table(&parsed("cluster.members", &answer)?)),
    }
}

/// Shows which nodes own a path.
pub(super) async fn locate(arguments: LocateArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let answer = client.action("locate", &json!({ "path": arguments.path })).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&splits_table(&parsed("locate", &answer)?)),
    }
}

#[derive(Debug, Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    id: String,
    role: String,
    state: String,
    #[serde(default)]
    address: Option<String>,
    weight_bytes: u64,
    share: f64,
    seat: bool,
}

#[derive(Debug, Deserialize)]
struct Located {
    splits: Vec<Split>,
}

#[derive(Debug, Deserialize)]
struct Split {
    path: String,
    row_groups: [u32; 2],
    rows: u64,
    bytes: u64,
    owners: Vec<Owner>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    id: String,
    state: String,
    #[serde(default)]
    address: Option<String>,
}

fn members_table(members: &Members) -> String {
    let mut columns = Columns::new(&["ID", "ROLE", "STATE", "ADDRESS", "WEIGHT", "SEAT", "SHARE"], &[4, 6]);
    for member in &members.members {
        let share = format!("{:.1} %", member.share * 100.0);
        columns.row(&[
            &member.id,
            &member.role,
            &member.state,
            member.address.as_deref().unwrap_or("-"),
            &human_bytes(member.weight_bytes),
            if member.seat { "yes" } else { "no" },
            &share,
        ]);
    }
    columns.text()
}

fn splits_table(located: &Located) -> String {
    let mut columns = Columns::new(&["PATH", "ROW GROUPS", "ROWS", "BYTES", "OWNERS"], &[2, 3]);
    for split in &located.splits {
        let owner = |owner: &Owner| {
            let name = owner.address.as_deref().unwrap_or(&owner.id);
            match owner.state.as_str() {
                "serving" => name.to_owned(),
                state => format!("{name} ({state})"),
            }
        };
        let owners: Vec<_> = split.owners.iter().map(owner).collect();
        let [first, last] = split.row_groups;
        let row_groups = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        let owners = if owners.is_empty() {
            "-".to_owned()
        } else {
            owners.join(", ")
        };
        columns.row(&[
            &split.path,
            &row_groups,
            &human_count(split.rows),
            &human_bytes(split.bytes),
            &owners,
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_shown_with_their_share() {
        let answer = json!({ "members": [
            { "id": "a", "role": "worker", "state": "serving", "address": "grpc://h:1", "weight_bytes": 1 << 30,
              "share": 0.25, "seat": true },
            { "id": "b", "role": "worker", "state": "lost", "address": null, "weight_bytes": 0, "share": 0.0, "seat": false },
        ]});
        let text = members_table(&serde_json::from_value(answer).unwrap());
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1],
            ["a", "worker", "serving", "grpc://h:1", "1.0", "GiB", "yes", "25.0", "%"]
        );
        assert_eq!(words[2][..4], ["b", "worker", "lost", "-"]);
    }

    #[test]
    fn splits_are_shown_with_their_owners() {
        let answer = json!({ "path": "/t", "splits": [
            { "path": "/t/a", "row_groups": [0, 3], "rows": 1000, "bytes": 2048, "owners": [
                { "id": "a", "state": "lost", "address": "grpc://h:1" }, { "id": "b", "state": "serving" } ] },
            { "path": "/t/b", "row_groups": [7, 7], "rows": 1, "bytes": 1, "owners": [] },
        ]});
        let text = splits_table(&serde_json::from_value(answer).unwrap());
        assert!(text.contains("0-3") && text.contains("grpc://h:1 (lost), b"), "{text}");
        assert!(text.lines().last().unwrap().ends_with('-'), "{text}");
    }
}

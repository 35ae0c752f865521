//! What a flight descriptor asks for.
//!
//! PATH `["lake", "trips"]` is the whole of `/lake/trips`; CMD is a JSON scan, or a Flight SQL message.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::{Any, Command};
use jetbridge_catalog::path::NsPath;
use prost::Message;

use crate::error::ServiceError;
use crate::request::ScanSpec;

/// Type URLs of Flight SQL messages begin with this.
const FLIGHT_SQL_TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// What a descriptor asks for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A scan of a dataset.
    Scan(ScanSpec),
    /// A Flight SQL message.
    Sql(Box<Command>),
}

/// What `descriptor` asks for.
///
/// # Errors
/// INVALID_ARGUMENT in words for whatever is no descriptor of ours.
pub(super) fn asked(descriptor: &FlightDescriptor) -> Result<Asked, ServiceError> {
    match DescriptorType::try_from(descriptor.r#type) {
        Ok(DescriptorType::Path) => of_path(&descriptor.path).map(Asked::Scan),
        Ok(DescriptorType::Cmd) => of_command(&descriptor.cmd),
        _ => Err(ServiceError::invalid("a flight descriptor needs the type PATH or CMD")),
    }
}

/// The Flight SQL message that the bytes are; none for what claims to be no such message.
///
/// # Errors
/// INVALID_ARGUMENT for one that claims to be and is not.
pub(super) fn sql_command(bytes: &[u8]) -> Result<Option<Command>, ServiceError> {
    let Ok(message) = Any::decode(bytes) else {
        return Ok(None);
    };
    if !message.type_url.starts_with(FLIGHT_SQL_TYPE_PREFIX) {
        return Ok(None);
    }
    let name = message.type_url.trim_start_matches(FLIGHT_SQL_TYPE_PREFIX).to_owned();
    let command = Command::try_from(message);
    command
        .map(Some)
        .map_err(|error| ServiceError::invalid(format!("{name}: {error}")))
}

fn of_path(segments: &[String]) -> Result<ScanSpec, ServiceError> {
    let path = match segments {
        [] => {
            return Err(ServiceError::invalid(
                "the descriptor's path is empty; give it as segments: [\"lake\", \"trips\"]",
            ));
        }
        // Clients like to put a whole path or URI into one segment; there is only one thing that it can mean.
        [whole] if whole.contains("://") || whole.starts_with('/') => whole.clone(),
        [whole] if whole.contains('/') => format!("/{whole}"),
        segments => NsPath::from_segments(segments.iter().map(String::as_str))
            .map_err(|error| ServiceError::invalid(crate::error::chain(&error)))?
            .to_string(),
    };
    Ok(ScanSpec {
        path,
        ..ScanSpec::default()
    })
}

fn of_command(command: &[u8]) -> Result<Asked, ServiceError> {
    if command.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(Asked::Scan(ScanSpec::from_json(command)?));
    }
    match sql_command(command)? {
        Some(command) => Ok(Asked::Sql(Box::new(command))),
        None => Err(ServiceError::invalid(
            "the descriptor's command is neither a JSON scan such as {\"path\": \"/lake/trips\"} nor a Flight SQL message",
        )),
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};

    use super::*;

    fn path_of(segments: &[&str]) -> Result<String, ServiceError> {
        of_path(&segments.iter().map(|&segment| segment.to_owned()).collect::<Vec<_>>()).map(|spec| spec.path)
    }

    #[test]
    fn segments_and_whole_paths_mean_the_same() {
        for segments in [&["lake", "trips"][..], &["/lake/trips"], &["lake/trips"]] {
            assert_eq!(path_of(segments).unwrap(), "/lake/trips");
        }
        assert_eq!(path_of(&["s3://b/trips"]).unwrap(), "s3://b/trips");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert!(path_of(&[]).is_err());
        assert!(path_of(&["lake", ".."]).is_err());
    }

    #[test]
    fn random_bytes_are_no_command() {
        assert!(of_command(b"").is_err());
        assert!(of_command(&[0xff, 0x00, 0x12]).is_err());
    }

    #[test]
    fn flight_sql_messages_are_known_by_their_type() {
        let query = CommandStatementQuery {
            query: "select 1".to_owned(),
            transaction_id: None,
        };
        let bytes = query.as_any().encode_to_vec();
        let Ok(Asked::Sql(command)) = of_command(&bytes) else {
            panic!("it is one");
        };
        assert_eq!(*command, Command::CommandStatementQuery(query));
        // One that claims to be a message and holds other bytes is not taken for a ticket of ours.
        let mut broken = Any::decode(bytes.as_slice()).unwrap();
        broken.value = bytes::Bytes::from_static(&[0xff; 4]);
        let error = sql_command(&broken.encode_to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("CommandStatementQuery: "), "{error}");
        broken.type_url = "type.googleapis.com/google.protobuf.Duration".to_owned();
        assert_eq!(sql_command(&broken.encode_to_vec()).unwrap(), None);
    }
}

//! What a flight descriptor asks for.
//!
//! PATH `["lake", "trips"]` is the whole of `/lake/trips`; CMD is a JSON scan, or a Flight SQL message (not built yet).

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::Any;
use jetbridge_catalog::path::NsPath;
use prost::Message;

use crate::error::ServiceError;
use crate::request::ScanSpec;

/// Type URLs of Flight SQL messages begin with this.
const FLIGHT_SQL_TYPE_PREFIX: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// The scan that `descriptor` describes.
///
/// # Errors
/// INVALID_ARGUMENT in words for whatever is no descriptor of ours; UNIMPLEMENTED for Flight SQL.
pub(super) fn scan_spec(descriptor: &FlightDescriptor) -> Result<ScanSpec, ServiceError> {
    match DescriptorType::try_from(descriptor.r#type) {
        Ok(DescriptorType::Path) => of_path(&descriptor.path),
        Ok(DescriptorType::Cmd) => of_command(&descriptor.cmd),
        _ => Err(ServiceError::invalid("a flight descriptor needs the type PATH or CMD")),
    }
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
        columns: None,
        filter: None,
        limit: None,
        ordered: false,
    })
}

fn of_command(command: &[u8]) -> Result<ScanSpec, ServiceError> {
    if command.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(ScanSpec::from_json(command)?);
    }
    match Any::decode(command) {
        Ok(message) if message.type_url.starts_with(FLIGHT_SQL_TYPE_PREFIX) => Err(ServiceError::Unimplemented {
            what: format!(
                "Flight SQL ({})",
                message.type_url.trim_start_matches(FLIGHT_SQL_TYPE_PREFIX)
            ),
        }),
        _ => Err(ServiceError::invalid(
            "the descriptor's command is neither a JSON scan such as {\"path\": \"/lake/trips\"} nor a Flight SQL message",
        )),
    }
}

#[cfg(test)]
mod tests {
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
}

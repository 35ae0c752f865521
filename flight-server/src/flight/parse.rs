//! Protobuf bodies of actions and commands.

use prost::Message;

use crate::error::ServiceError;

/// The message that `name` has as its body.
///
/// # Errors
/// INVALID_ARGUMENT for bytes that are no such message.
pub(super) fn decode<T: Message + Default>(name: &str, body: &[u8]) -> Result<T, ServiceError> {
    T::decode(body).map_err(|error| ServiceError::invalid(format!("{name}: {error}")))
}

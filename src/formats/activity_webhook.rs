//! Postman's activity webhook body, with the fields that the contract adds to it.
//!
//! Postman publishes no list of actions and models, so whatever text stands there is passed on.

use crate::domain::event::Activity;

use super::fields::Fields;
use super::malformed::Malformed;

/// Reads a body (or a CloudEvent's data).
pub(super) fn read(body: &Fields<'_, '_>) -> Result<Activity, Malformed> {
    Ok(Activity {
        action: body.required_text("action")?,
        model: body.required_text("model")?,
        model_uid: body.text("model_uid")?,
        model_name: body.text("model_name")?,
        collection_uid: body.text("collection_uid")?,
        collection_name: body.text("collection_name")?,
        message: body.text("message")?,
        user_id: body.text("user_id")?,
        user_name: body.text("user_name")?,
        occurred_at: body.time("occurred_at")?,
        workspace_id: body.text("workspace_id")?,
        workspace_name: body.text("workspace_name")?,
        model_url: body.link("model_url"),
        collection_url: body.link("collection_url"),
    })
}

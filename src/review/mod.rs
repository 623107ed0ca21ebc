//! Review of hard samples: prompt, reply, redaction, protocol, client.

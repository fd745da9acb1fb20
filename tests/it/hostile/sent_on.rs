//! A message that is retried or given up is sent on, whatever its headers hold.

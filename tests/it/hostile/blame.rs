//! One message is at fault: its neighbours are not blamed.

// Loaded before a server of somebody else (node --import): lets get-env of
// server-everything say which process it is.
process.env.PROCESS_ID = String(process.pid);

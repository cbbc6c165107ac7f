-- Who attaches a file anew has it tried again that was given up for no fault of its own.
grant update (ingestion_attempt, ingestion_reason) on stored_files to turnkeep_tenant;

// Package run is everything around a job that is not its mathematics: the run folder with its checkpoints, what the
// person and the scripts at the terminal see, how signals end a job, exit codes, and the format of results.
// Options, configuration files and presets are in run/config.
//
// A run folder holds
//
//	config.yaml      every key as it was resolved; `-c FOLDER/config.yaml` repeats the run
//	argv.txt         the command lines, one for each start
//	env.json         versions, processor and the variables that matter
//	log.jsonl        everything that was logged
//	metrics.jsonl    the metric events
//	predictions.json what the network says of each image to forget, before and after
//	pictures/        the first images to forget and adversarial examples of them, for people
//	forget.json      the forget set, where there is one
//	checkpoints/     step-N.safetensors, its manifest step-N.json, and last, the name of the newest
//	result.json      the result; written last, so that its presence means that the run came to an end
//
// Each file is written to a temporary name, synced and renamed, so that a crash or a full disk leaves the old one.
package run

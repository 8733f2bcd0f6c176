//go:build race

package state

// raceEnabled: timings mean nothing under the race detector.
const raceEnabled = true

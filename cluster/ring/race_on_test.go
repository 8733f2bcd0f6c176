//go:build race

package ring

// raceEnabled: timings mean nothing under the race detector.
const raceEnabled = true

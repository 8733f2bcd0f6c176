package main

import (
	"context"
	"time"

	"sheepdog/internal/program"
)

// outputLimit bounds a program that is run to its end.
const outputLimit = 2 * time.Minute

// output runs a program to its end and returns what it prints.
func output(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputLimit)
	defer cancel()
	return program.Output(ctx, path, args...)
}

//go:build !linux

package objectstore

func lowerPriority(int) {}

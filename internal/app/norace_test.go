//go:build !race

package app

const slow = 1

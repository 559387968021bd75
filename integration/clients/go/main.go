// Flight SQL from Go: arrow-go's client and its database/sql driver against a running server.
//
//	suite grpc://HOST:PORT
//
// Prints one line a test, closes with the counts, and exits with 1 when one failed. The server has the TPC-H tables of
// scale 0.01.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// How long one test may take.
const limit = 60 * time.Second

type test struct {
	name string
	run  func(context.Context, string)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: suite grpc://HOST:PORT")
		os.Exit(2)
	}
	address := strings.TrimPrefix(os.Args[1], "grpc://")
	tests := append(append(statementTests, metadataTests...), databaseTests...)
	failed := 0
	for _, test := range tests {
		if why := outcome(test, address); why != "" {
			failed++
			fmt.Printf("FAILED %s: %s\n", test.name, why)
		} else {
			fmt.Printf("ok     %s\n", test.name)
		}
	}
	fmt.Printf("%d passed, %d failed\n", len(tests)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// Runs a test; gives the reason of its failure, or an empty text. A failed check panics.
func outcome(test test, address string) (why string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	defer func() {
		if panicked := recover(); panicked != nil {
			why = fmt.Sprintf("%v\n%s", panicked, debug.Stack())
		}
	}()
	test.run(ctx, address)
	return ""
}

func check(holds bool, otherwise string, values ...any) {
	if !holds {
		panic(fmt.Sprintf(otherwise, values...))
	}
}

func equal(expected, actual any) {
	check(fmt.Sprint(expected) == fmt.Sprint(actual), "expected %v, got %v", expected, actual)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func succeeds(err error) {
	if err != nil {
		panic(err)
	}
}

// Checks that there is an error that contains word.
func refused(err error, word string) {
	check(err != nil, "no error, where one was due about %q", word)
	check(strings.Contains(err.Error(), word), "%q is not in: %v", word, err)
}

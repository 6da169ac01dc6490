// Package tools builds the servers that the demo and the tests run, once, into the user's cache.
package tools

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Traefik builds Traefik and returns the program's path.
func Traefik(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := build(ctx, progress, "traefik", "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=3.6.12")
	return filepath.Join(dir, "traefik"+exe), err
}

// Dendrite builds a homeserver and its tools and returns the function that finds one by name.
func Dendrite(ctx context.Context, progress io.Writer) (func(name string) string, error) {
	dir, err := build(ctx, progress, "dendrite", "-s -w")
	return func(name string) string { return filepath.Join(dir, name+exe) }, err
}

// Compose builds the docker compose command, as a plugin of the docker command, and returns its path.
func Compose(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := build(ctx, progress, "compose", "-s -w -X github.com/docker/compose/v2/internal.Version=v2.40.3")
	return filepath.Join(dir, "cmd"+exe), err
}

// Caddy builds the server that the benchmarks compare with, and returns the program's path.
func Caddy(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := build(ctx, progress, "caddy", "-s -w")
	return filepath.Join(dir, "caddy"+exe), err
}

var exe = map[string]string{"windows": ".exe"}[runtime.GOOS]

// Dir is the folder demo/ of this checkout.
func Dir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// build makes the programs that demo/<name>/go.mod lists as its tools.
// The folder it returns is named after all that decides on the outcome, so it never gets stale.
func build(ctx context.Context, progress io.Writer, name, ldflags string) (string, error) {
	module := filepath.Join(Dir(), name)
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, ldflags)
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		hash.Write(content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder to keep %s in: %w", name, err)
	}
	cache = filepath.Join(cache, "wellknown-demo")
	dir := filepath.Join(cache, name+"-"+hex.EncodeToString(hash.Sum(nil))[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}

	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("the go command is not in PATH: install Go from https://go.dev/dl/ and try again")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(cache, "unfinished-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(unfinished) }()
	fmt.Fprintf(progress, "building %s, once; the first time takes minutes\n", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-o", unfinished+string(filepath.Separator), "-ldflags", ldflags, "tool")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if err := run(cmd, progress, name); err != nil {
		return "", err
	}
	if err := os.Rename(unfinished, dir); err != nil {
		if _, missing := os.Stat(dir); missing != nil { // not built by somebody else in the meantime
			return "", err
		}
	}
	return dir, nil
}

// run shows every few seconds how far the build is, and what it said last if it fails.
func run(cmd *exec.Cmd, progress io.Writer, name string) error {
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	start, tick := time.Now(), time.NewTicker(10*time.Second)
	defer tick.Stop()
	downloaded, compiled, last := 0, 0, []string{}
	for open := true; open; {
		select {
		case line, ok := <-lines:
			open = ok
			switch {
			case !ok:
			case strings.HasPrefix(line, "go: downloading"):
				downloaded++
			case !strings.Contains(line, " "):
				compiled++ // -v prints the import path
			default:
				last = append(last[max(0, len(last)-4):], line)
			}
		case <-tick.C:
			fmt.Fprintf(progress, "building %s: %d modules downloaded, %d packages compiled, %s\n",
				name, downloaded, compiled, time.Since(start).Round(time.Second))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("building %s failed (%w): %s", name, err, strings.Join(last, " | "))
	}
	fmt.Fprintf(progress, "built %s in %s\n", name, time.Since(start).Round(time.Second))
	return nil
}

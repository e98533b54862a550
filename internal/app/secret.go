package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport"
)

// secretsOf resolves references that the current configuration of one stage
// makes, and no others.
func (a *App) secretsOf(stage sallyport.Stage) func(string) (string, error) {
	return func(ref string) (string, error) {
		c, err := a.Store.StageConfig(context.Background(), a.Gateway.State().Configs[stage])
		if err != nil {
			return "", err
		}
		if !refersTo(c, ref) {
			return "", sallyport.Refuse(sallyport.StageWall, "no upstream of this stage refers to that secret", "")
		}
		return a.Project.Server.Secrets.Resolve(ref, os.LookupEnv, func(name string) ([]byte, error) { return a.readSecret(stage, name) })
	}
}

// references are the secret references of a stage: whatever may be one.
func references(c *sallyport.StageConfig) []string {
	var refs []string
	for _, u := range c.Upstreams {
		refs = append(refs, u.Transport.Secrets()...)
	}
	return refs
}

func refersTo(c *sallyport.StageConfig, ref string) bool {
	for _, r := range references(c) {
		if r == ref {
			return true
		}
	}
	return false
}

// readSecret reads a secret file of one stage. Nothing leads out of the folder of
// secrets that the file lies in, and a file that another stage refers to as well,
// under whatever name, is not read: links can be changed after everything was
// applied.
func (a *App) readSecret(stage sallyport.Stage, name string) ([]byte, error) {
	file, dir, within, err := a.findSecret(name)
	if err != nil {
		return nil, err
	}
	configs := a.Gateway.State().Configs
	for _, other := range sallyport.Stages {
		if other == stage || configs[other] == "" {
			continue
		}
		c, err := a.Store.StageConfig(context.Background(), configs[other])
		if err != nil {
			return nil, err
		}
		for _, ref := range references(c) {
			path, ok := strings.CutPrefix(ref, "file:")
			if !ok {
				continue
			}
			if theirs, _, _, err := a.findSecret(path); err == nil && os.SameFile(file, theirs) {
				return nil, sallyport.Refuse(sallyport.StageWall, "that file holds a secret of another stage, too", "give each stage a file of its own")
			}
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(within)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What was looked at has to be what is read.
	if opened, err := f.Stat(); err != nil || !os.SameFile(opened, file) {
		return nil, fmt.Errorf("%s changed while it was being opened", name)
	}
	return io.ReadAll(f)
}

// findSecret returns a secret file without opening it, and where it is: a folder
// of secrets, and the path within.
func (a *App) findSecret(name string) (file fs.FileInfo, dir, within string, err error) {
	for _, folder := range a.Project.Server.Secrets.Files {
		within, err := filepath.Rel(filepath.FromSlash(folder), filepath.FromSlash(name))
		if err != nil || !filepath.IsLocal(within) {
			continue
		}
		dir := a.path(folder)
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, "", "", err
		}
		file, err := root.Stat(within)
		return file, dir, within, errors.Join(err, root.Close())
	}
	return nil, "", "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

"""`palate evaluate chain`: from a fresh install to a published version that serves people better."""

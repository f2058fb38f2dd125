"""Scores predicted masks against true masks."""
